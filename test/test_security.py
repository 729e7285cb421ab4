"""What SECURITY.md promises: no code from data, no network of its own, and a policy that is never out of date."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mm_perception.cli.main import main
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig, load_rig
from mm_perception.pipeline.intake import Intake
from mm_perception.ros.security import OUTPUTS, SERVICES, security_policy

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "config" / "security" / "fusion_node.policy.xml"
SOURCES = sorted((ROOT / "mm_perception").rglob("*.py"))

RUNS_CODE = {"eval", "exec", "compile", "__import__", "execfile"}
UNSAFE = {
    "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.posix_spawn", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "joblib.load", "pandas.read_pickle", "pd.read_pickle", "torch.hub.load",
    "tempfile.mktemp",
}  # fmt: skip
UNSAFE_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
NETWORK = {"socket", "http", "urllib", "urllib3", "requests", "httpx", "ftplib", "smtplib", "aiohttp", "websockets",
           "asyncio", "socketserver", "xmlrpc"}  # fmt: skip


def problems(code: str) -> list[str]:
    """What a source file must not do."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names = {module.split(".")[0] for module in modules}
            found += [f"imports {name}" for name in sorted(names & (UNSAFE_MODULES | NETWORK))]
            if isinstance(node, ast.ImportFrom):
                found += [f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in UNSAFE]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in RUNS_CODE or called in UNSAFE or called.startswith("builtins."):
            found.append(called)
        if given.get("shell", "False") != "False":
            found.append(f"{called} with a shell")
        if called == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load of more than weights")
        if called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append("numpy.load of pickles")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_data_or_opens_a_connection(path):
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)", "exec(text)", "__import__(name)", "import os\nos.system(line)", "os.popen(line)",
        "subprocess.run(line, shell=True)", "subprocess.Popen(line, shell=flag)", "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)", "pickle.loads(data)", "from yaml import load",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)",
        "import marshal", "import socket", "from urllib.request import urlopen", "import http.client",
        "tempfile.mktemp()",
    ],
)  # fmt: skip
def test_the_scan_finds_each_kind(code):
    assert problems(code)


def test_the_scan_lets_safe_ways_pass():
    assert (
        SOURCES
        and problems(
            "yaml.safe_load(t)\ntorch.load(p, weights_only=True)\nnp.load(p)\nmodel.eval()\nre.compile(p)\n"
            "torch.compile(m)\nsubprocess.run(['git'], shell=False)\nimport importlib"
        )
        == []
    )


# The policy


def names(policy: str, kind: str, may: str) -> set[str]:
    profile = ElementTree.fromstring(policy).find("enclaves/enclave/profiles/profile")
    assert profile is not None
    return {str(one.text) for one in profile.findall(f"{kind}s[@{may}='ALLOW']/{kind}")}


def test_the_shipped_policy_is_what_the_command_writes(tmp_path, capsys):
    assert main(["security-policy", "--out", str(tmp_path / "a" / "policy.xml")]) == 0
    assert (tmp_path / "a" / "policy.xml").read_bytes() == SHIPPED.read_bytes(), "make it anew with --overwrite"
    assert "create_permission KEYSTORE /fusion_node" in capsys.readouterr().out
    assert main(["security-policy", "--out", str(tmp_path / "a" / "policy.xml")]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("rig", sorted(path.stem for path in (ROOT / "config" / "rigs").glob("*.yaml")))
def test_a_policy_hears_what_its_rig_names_and_nothing_else(rig):
    policy, config = security_policy(load_rig(rig)), load_rig(rig)
    wanted = {topic.topic for topic in Intake(config).inputs} | {"/clock", "/parameter_events"}
    assert names(policy, "topic", "subscribe") == wanted
    assert {"/tf", "/tf_static", *(sensor.input_topic for sensor in config.sensors)} <= wanted
    assert names(policy, "topic", "publish") == {*OUTPUTS, "/rosout", "/parameter_events", "~/transition_event"}
    assert names(policy, "service", "reply") == set(SERVICES) and not names(policy, "service", "request")
    assert "DENY" not in policy and "*" not in policy


def test_the_policy_publishes_what_the_nodes_sources_name():
    """Every name that a publisher of the node is created with, and no other."""
    found: set[str] = set()
    for path in (ROOT / "mm_perception" / "ros").glob("*.py"):
        if path.name in ("session.py", "player.py", "security.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "create_publisher", "create_lifecycle_publisher", "publisher",
            ):  # fmt: skip
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                found |= {text for text in texts if text.startswith(("/", "~/"))}
    assert found == set(OUTPUTS)
    in_readme = set(re.findall(r"^\| `(~/output/\w+)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert in_readme <= set(OUTPUTS)


def test_a_policy_is_for_the_namespace_and_name_that_are_asked_for():
    policy = ElementTree.fromstring(security_policy(load_rig("rgb"), "front/head", "eyes"))
    (enclave,), (profile,) = policy.iter("enclave"), policy.iter("profile")
    assert enclave.get("path") == "/front/head/eyes" and policy.get("version") == "0.2.0"
    assert (profile.get("ns"), profile.get("node")) == ("/front/head", "eyes")


@pytest.mark.parametrize(("namespace", "node"), [("/a b", "n"), ("/*", "n"), ("/a//b", "n"), ("/", "*"), ("/", "a/b"),
                                                 ("/", ""), ("/1a", "n")])  # fmt: skip
def test_names_that_would_allow_more_are_refused(namespace, node):
    with pytest.raises(ConfigError, match="expected a namespace"):
        security_policy(load_rig("rgb"), namespace, node)


@pytest.mark.parametrize("topic", ["/camera/*", "/a?", "/[ab]", "/a b", "/a/", "//a", "/a<b", "/ä"])
def test_topics_that_would_allow_more_are_refused(topic):
    sensors = (SensorConfig("rgb", "rgb", camera_info=topic),)
    try:
        rig = RigConfig(sensors, "rgb")
    except ConfigError:
        return  # the rig itself refuses it
    with pytest.raises(ConfigError, match="is no ROS name"):
        security_policy(rig)


def test_the_security_notes_name_what_is_tested():
    notes = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for word in ("pickle", "eval", "shell", "weights_only", "SROS2", "security-policy", "DDS", "--overwrite"):
        assert word in notes
