"""Masks made fast: masked layers rewritten as gather + grouped convolution, in operators that every runtime has."""
