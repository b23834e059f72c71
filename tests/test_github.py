"""GitHub's files: valid YAML, and what they call is there: make's targets, actions, Pythons."""

import re
import tomllib
from pathlib import Path

import compat
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
TARGETS = set(
    re.findall(r"^([a-z][a-z-]*):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def make_targets(workflow: Path) -> list[str]:
    """What a workflow asks make for."""
    lines = "\n".join(step.get("run", "") for step in steps(workflow))
    return re.findall(r"\bmake ([a-z-]+)", lines)


def test_there_are_workflows_for_tests_other_versions_and_the_site():
    assert {path.stem for path in WORKFLOWS} == {"tests", "compat", "site"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_targets_that_there_are(workflow):
    wanted = make_targets(workflow)
    assert wanted and set(wanted) <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_checks_the_project_out_first_and_every_action_has_a_version(workflow):
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    for job in jobs:
        actions = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action) for action in actions), actions
        if any("make" in step.get("run", "") for step in job["steps"]):
            assert job["steps"][0]["uses"].startswith("actions/checkout@")


def test_pythons_of_the_workflows_are_those_of_the_classifiers():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = {
        line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)
    }
    tested = set(
        re.findall(r'python(?:-version)?: "(3\.\d+)"', "".join(path.read_text() for path in WORKFLOWS))
    )
    assert tested == versions


def test_the_compat_workflow_runs_each_environment_with_its_python():
    workflow = yaml.safe_load((PROJECT / ".github/workflows/compat.yml").read_text(encoding="utf-8"))
    rows = workflow["jobs"]["compat"]["strategy"]["matrix"]["include"]
    assert {row["environment"] for row in rows} == set(compat.ENVIRONMENTS)
    for row in rows:
        assert row["python"] in compat.ENVIRONMENTS[row["environment"]].pythons


def test_compat_runs_all_environments_or_those_that_are_named(monkeypatch, tmp_path):
    ran = []
    monkeypatch.delenv("PYTHONPATH", raising=False)  # main takes it away
    monkeypatch.setattr(compat, "FOLDER", tmp_path)
    monkeypatch.setattr(compat, "TABLE", tmp_path / "table.md")
    monkeypatch.setattr(compat, "check", lambda one: ran.append(one.name) or {"skipped": "no Python here"})
    for words in ([], ["colab"]):
        monkeypatch.setattr("sys.argv", ["compat.py", *words])
        assert compat.main() == 0
    assert ran == [*compat.ENVIRONMENTS, "colab"]
    assert "no Python here" in (tmp_path / "table.md").read_text()
    monkeypatch.setattr("sys.argv", ["compat.py", "colba"])
    with pytest.raises(SystemExit):
        compat.main()


@pytest.mark.parametrize(
    "form", sorted((PROJECT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_an_issue_form_is_one(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        return
    assert content["name"] and content["description"]
    for field in content["body"]:
        assert field["type"] in ("input", "textarea", "dropdown", "markdown", "checkboxes")
        assert field["attributes"]["label"]


def test_the_citation_names_the_version_and_the_repository_of_the_project():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert citation["license"] == project["license"]
