"""A job of three tiny steps, for the tests of the engine: real children that write a ledger of what they did."""

from workers.step import Output, Pipeline, Step

PIPELINE = Pipeline(
    package="toy_steps",
    steps=(
        Step(name="first", phase="validating", weight=1, inputs=("model",), outputs=(Output(name="first.txt"),)),
        Step(
            name="work",
            phase="finetuning",
            weight=8,
            inputs=("first.txt",),
            outputs=(Output(name="work.json", public=True, media_type="application/json"),),
            exclusive=True,
        ),
        Step(name="last", phase="exporting", weight=1, inputs=("first.txt", "work.json")),
    ),
)
