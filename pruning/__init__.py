"""The method as a plain library: networks, coupling groups, saliency, plans, smaller networks.

No web, no database, no environment.
"""
