"""Nothing a user can set, call or meet is undocumented."""

import re
from pathlib import Path

from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from app.documentation import README, problems_table, settings_table, updated
from app.main import create_app
from app.problems import PROBLEMS
from app.settings import Settings

APP = README.parent


def test_the_readme_lists_every_setting_and_error_code() -> None:
    text = README.read_text()
    assert updated(text) == text, "run `python -m app.documentation`"
    for name, field in Settings.model_fields.items():
        assert f"SECATEUR_{name.upper()}" in settings_table()
        assert field.description and field.description.endswith("."), name
    for code, kind in PROBLEMS.items():
        assert f"`{code}`" in problems_table()
        assert kind.meaning.endswith(".") and kind.title, code


def test_every_code_that_is_raised_is_listed_and_every_listed_one_is_raised() -> None:
    source = {path: path.read_text() for path in APP.rglob("*.py")}
    raised = set()
    for text in source.values():
        raised |= set(re.findall(r'ApiProblem\(\s*"(\w+)"', text))
        raised |= set(re.findall(r'faults\.add\(\s*"(\w+)"', text))
    assert raised <= set(PROBLEMS)
    # Those come from statuses of the framework, or stand for what a worker says.
    indirect = {"method_not_allowed", "upload_refused"}
    assert set(PROBLEMS) - raised == indirect


def test_every_route_says_what_it_does_and_how_it_fails(settings: Settings) -> None:
    app = create_app(settings)
    schema = app.openapi()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            problems = [answer for status, answer in operation["responses"].items() if int(status) >= 400]
            assert all(list(answer["content"]) == ["application/problem+json"] for answer in problems), where
            if "{" in path:
                assert "404" in operation["responses"], where
            if "requestBody" in operation:
                assert {"413", "415"} <= set(operation["responses"]), where
            assert all(
                status == "204" or answer["content"]
                for status, answer in operation["responses"].items()
                if status < "3"
            ), where
    assert "HTTPValidationError" not in str(schema)


def test_no_text_of_an_address_may_hold_a_nul(settings: Settings) -> None:
    schema = create_app(settings).openapi()
    texts = [
        part
        for operations in schema["paths"].values()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] in ("path", "query")
        for part in parameter["schema"].get("anyOf", [parameter["schema"]])
        if part.get("type") == "string" and "enum" not in part
    ]
    assert len(texts) > 50
    assert all(not re.search(part["pattern"], "a\0b") and re.search(part["pattern"], "a-b") for part in texts)


def test_files_are_described_with_their_types_and_parts(settings: Settings) -> None:
    paths = create_app(settings).openapi()["paths"]
    for path, types in (
        ("/v1/prune-jobs/{job_id}/artifacts/{name}", {"application/octet-stream", "application/json", "text/html"}),
        ("/v1/prune-jobs/{job_id}/report", {"application/json", "text/html"}),
        ("/v1/luts/{lut_id}/plots/{name}.png", {"image/png"}),
        ("/v1/measurements/{measurement_id}/files/{sha256}", {"application/octet-stream"}),
    ):
        answers = paths[path]["get"]["responses"]
        assert {"206", "304", "404", "416"} <= set(answers)
        assert set(answers["200"]["content"]) == set(answers["206"]["content"]) == types


def test_every_reference_of_the_schema_leads_somewhere(settings: Settings) -> None:
    schema = create_app(settings).openapi()
    names = set(re.findall(r"#/components/schemas/([\w]+)", str(schema)))
    assert names <= set(schema["components"]["schemas"])


def test_every_problem_type_is_a_page(client: TestClient) -> None:
    for code, kind in PROBLEMS.items():
        page = client.get(f"/problems/{code}")
        assert page.status_code == 200 and kind.title.split("'")[0] in page.text
    assert client.get("/problems/nothing").status_code == 404


def test_routes_are_one_file_a_resource(settings: Settings) -> None:
    paths = [str(route.path) for route in iter_route_contexts(create_app(settings).routes)]
    prefixes = {path.split("/")[2] for path in paths if path.startswith("/v1/")} - {"openapi.json"}
    files = {path.stem.replace("_", "-") for path in (Path(APP) / "api").glob("*.py")}
    assert len(prefixes) > 10
    assert prefixes - {"measurements"} <= files  # those are what agents ask for


def test_links_lead_from_what_is_made_to_every_route_under_its_id(settings: Settings) -> None:
    paths = create_app(settings).openapi()["paths"]
    linked = {name for path in paths.values() for name in str(path.get("post", {})).split("'operationId': '")[1:]}
    assert len(linked) > 30
    for path, operations in paths.items():
        source = path.partition("/{")[0]
        if path == source or "post" not in paths.get(source, {}) or source == "/v1/agents":
            continue
        for operation in operations.values():
            made = paths[source]["post"]["responses"]
            links = {**made.get("201", {}).get("links", {}), **made.get("202", {}).get("links", {})}
            link = links[operation["operationId"]]
            (name,) = link["parameters"]
            assert f"/{{{name}}}" in path and link["parameters"][name] == "$response.body#/id"
