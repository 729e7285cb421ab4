"""The node on a real graph declares nothing that its policy does not allow."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from mm_perception.core.rig import load_rig
from mm_perception.ros.security import NODE_NAME, security_policy

pytestmark = pytest.mark.ros


def allowed(policy: str, kind: str, may: str) -> set[str]:
    found = ElementTree.fromstring(policy).iterfind(f".//{kind}s[@{may}='ALLOW']/{kind}")
    return {str(one.text).replace("~", f"/{NODE_NAME}", 1) for one in found}


@pytest.mark.parametrize("rig", ["demo", "rgbt"])
def test_what_the_node_declares_is_allowed(start_session, rig):
    session = start_session(rig, overlays=False, engine="torch")
    # /diagnostics are sent by a timer, when everything has been declared.
    session.wait_until(lambda: bool(session.result.pipeline.get("engine")), 120, "the node")
    policy, graph = security_policy(load_rig(rig)), session.node

    def publishes() -> set[str]:
        return {name for name, _ in graph.get_publisher_names_and_types_by_node(NODE_NAME, "/")}

    # What a node has becomes known one by one.
    session.wait_until(lambda: {"/diagnostics", f"/{NODE_NAME}/output/segmentation"} <= publishes(), 60, "its topics")
    published = publishes()
    heard = {name for name, _ in graph.get_subscriber_names_and_types_by_node(NODE_NAME, "/")}
    served = {name for name, _ in graph.get_service_names_and_types_by_node(NODE_NAME, "/")}
    asked = {name for name, _ in graph.get_client_names_and_types_by_node(NODE_NAME, "/")}
    assert "/diagnostics" in published and "/tf" in heard and f"/{NODE_NAME}/get_parameters" in served
    assert published - allowed(policy, "topic", "publish") == set()
    assert heard - allowed(policy, "topic", "subscribe") == set()
    assert served - allowed(policy, "service", "reply") == set()
    assert asked == set()
