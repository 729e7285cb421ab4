"""An SROS2 policy for the node: what it may say and hear on the graph of one rig, and nothing else.

`ros2 security create_permission KEYSTORE ENCLAVE POLICY` turns it into signed DDS permissions. Needs no ROS itself.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig
from mm_perception.pipeline.intake import Intake

NODE_NAME = "fusion_node"
OUTPUTS = (
    "/diagnostics",
    "~/output/segmentation",
    "~/output/segmentation_overlay",
    "~/output/label_info",
    "~/output/detections",
    "~/output/detection_velocities",
    "~/output/detection_markers",
    "~/output/detection_overlay",
    "~/output/detected_objects",
    "~/output/perception_status",
)
"""What the node publishes, whichever models it runs."""
NODE_TOPICS = ("/parameter_events", "/rosout", "~/transition_event")
"""What every lifecycle node publishes."""
SERVICES = (
    "~/change_state",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_state",
    "~/get_transition_graph",
    "~/describe_parameters",
    "~/get_parameter_types",
    "~/get_parameters",
    "~/get_type_description",
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
)
"""What it answers: lifecycle, parameters, and the types of its topics. It asks nobody."""
HEARD_BY_ALL = ("/clock", "/parameter_events")

_NAME = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_NAMESPACE = re.compile(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+")


def security_policy(rig: RigConfig, namespace: str = "/", node: str = NODE_NAME) -> str:
    """The policy as XML (SROS2's format 0.2.0), the same for the same rig.

    Args:
        namespace, node: under which the node is started; its enclave is both together.

    Raises:
        ConfigError: a topic of the rig, the namespace or the name is none of ROS: a `*` in it would allow more.
    """
    namespace = "/" + namespace.strip("/")
    if not _NAMESPACE.fullmatch(namespace) or not _NAME.fullmatch(node) or "/" in node:
        raise ConfigError(f"expected a namespace such as /front and a node's name, got {namespace!r} and {node!r}")
    heard = {topic.topic for topic in Intake(rig).inputs} | set(HEARD_BY_ALL)
    wrong = sorted(topic for topic in heard if not _NAME.fullmatch(topic))
    if wrong:
        raise ConfigError(f"rig {rig.name}: topic {wrong[0]!r} is no ROS name (letters, digits, underscores, slashes)")
    policy = ElementTree.Element("policy", version="0.2.0")
    policy.append(ElementTree.Comment(f" rig {rig.name}; made by: mm-perception security-policy "))
    enclave = ElementTree.SubElement(
        ElementTree.SubElement(policy, "enclaves"), "enclave", path=f"{namespace.rstrip('/')}/{node}"
    )
    profile = ElementTree.SubElement(ElementTree.SubElement(enclave, "profiles"), "profile", ns=namespace, node=node)
    _add(profile, "topic", "subscribe", sorted(heard))
    _add(profile, "topic", "publish", sorted((*OUTPUTS, *NODE_TOPICS)))
    _add(profile, "service", "reply", sorted(SERVICES))
    ElementTree.indent(policy)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(policy, encoding="unicode") + "\n"


def _add(profile: ElementTree.Element, kind: str, may: str, names: list[str]) -> None:
    allowed = ElementTree.SubElement(profile, f"{kind}s", {may: "ALLOW"})
    for name in names:
        ElementTree.SubElement(allowed, kind).text = name
