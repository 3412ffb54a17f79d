"""A worker for the tests of the API: real queues, real children, bodies that look at files without torch."""

from workers.step import Output, Pipeline, Step

BUILDS = Pipeline(
    package="api_steps",
    steps=(
        Step(
            name="build_table",
            phase="profiling",
            weight=1,
            inputs=("model",),
            optional_inputs=("known_table.json",),
            outputs=(Output(name="table.json", media_type="application/json"),),
        ),
    ),
)

PIPELINE = Pipeline(
    package="api_steps",
    steps=(
        Step(
            name="work",
            phase="solving",
            weight=1,
            inputs=("model", "dataset.zip"),
            outputs=(
                Output(name="plan.json", public=True, media_type="application/json"),
                Output(name="report.json", public=True, media_type="application/json"),
                Output(name="report.html", public=True, media_type="text/html"),
            ),
        ),
    ),
)
