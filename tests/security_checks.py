"""The 32 security checks: number, control, and the tests that make it, by file and name. `python -m tests.security_checks` writes
docs/security-checks.md; tests/test_security_checks.py holds that every name is a test and that the page is this table."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "security-checks.md"
HEAD = """# Security checks and their tests

Generated from `tests/security_checks.py` by `python -m tests.security_checks`: do not edit. A test that is named here exists (a test sees
to that) and runs in `make test-fast`, those of `tests/reliability` in `make reliability`, those of `tests/compose` in `make test` where a
docker engine answers. The route × role matrix (4) is generated from the router: a route that is not in the table of
`services/gateway/access.py` fails it, and is shut to all but administrators meanwhile.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """`tests`: file below tests/, and the names in it. `lacks`: what of the control no test here looks at."""

    control: str
    tests: dict[str, str]
    lacks: str = ""


CHECKS: dict[int, Check] = {
    1: Check("Keys: 256 random bits, shown once, only their SHA-256 is kept", {
        "keys/test_key.py": "test_secrets_are_256_random_bits test_only_the_sha_256_is_kept_and_it_is_not_printed",
        "keys/test_store.py": "test_a_key_comes_back_without_its_secret",
        "gateway/test_keys.py": "test_no_part_of_a_key_is_in_database_log_or_metrics"}),
    2: Check("Comparison in constant time; an unknown and a wrong key get the same words", {
        "gateway/test_keys.py": "test_every_look_compares_in_constant_time test_a_key_lets_in_and_nothing_else_does"}),
    3: Check("Fails closed: without keys nobody beyond this machine is served", {
        "gateway/test_keys.py": "test_without_keys_only_this_machine_is_served test_no_keys_beyond_loopback test_modes "
                                "test_keys_that_were_never_read_let_nobody_in_until_they_are"}),
    4: Check("Admin and user keys are two kinds; every route as every kind of caller, from the router", {
        "gateway/test_admin.py": "test_every_route_is_in_the_table_and_no_other test_route_by_role "
                                 "test_no_verb_and_no_spelling_opens_the_admin_routes",
        "gateway/test_keys.py": "test_admin_keys_never_infer_and_models_are_kept_apart"}),
    5: Check("A key sees its own usage and pictures only", {
        "gateway/test_usage.py": "test_a_key_sees_its_own_rows_and_an_admin_all",
        "gateway/test_salts.py": "test_a_picture_is_its_own_keys"}),
    6: Check("Wrong keys are throttled by address; a good key never notices; X-Forwarded-For is no address", {
        "gateway/test_keys.py": "test_many_wrong_keys_and_a_good_one test_guesses_in_many_names_are_of_one_address test_throttle",
        "gateway/test_proxies.py": "test_nobody_is_believed_unless_named"}),
    7: Check("Workers on an internal network, no published ports, a random token each", {
        "compose/test_network.py": "test_only_the_gateway_reaches_a_worker test_a_worker_without_its_token_says_nothing "
                                   "test_nothing_but_the_gateway_is_published_and_that_on_loopback",
        "deploy/test_stack.py": "test_a_worker_is_given_its_own_token_only"}),
    8: Check("Only known routes reach an engine", {"gateway/test_bad_input.py": "test_unknown_routes test_wrong_methods"}),
    9: Check("Only known fields reach an engine", {
        "gateway/test_security.py": "test_an_engine_never_sees_a_field_that_is_in_no_table",
        "gateway/test_bad_input.py": "test_unknown_fields_are_left_out_and_named test_dangerous_fields_are_refused",
        "reliability/test_bad_requests.py": "test_extra_fields"}),
    10: Check("Nothing is fetched for a request", {
        "gateway/test_security.py": "test_no_field_makes_the_gateway_connect_anywhere",
        "reliability/test_bad_requests.py": "test_pictures_from_elsewhere"},
        "redirects and rebinding: nothing is fetched, so nothing can be redirected; no test of their own"),
    11: Check("Weights: safetensors and GGUF only, pinned, no remote code", {
        "provision/test_weights_safety.py": "test_a_repository_of_pickles_only "
                                            "test_a_config_that_names_code_is_refused_before_the_weights",
        "provision/test_weights_hub.py": "test_a_pinned_sha256_must_be_the_hubs test_wrong_bytes_are_removed",
        "diffusion/test_folder.py": "test_code_is_refused test_pickles_are_refused"}),
    12: Check("Workers are offline", {"compose/test_network.py": "test_a_worker_has_no_way_out"}),
    13: Check("Names of models and files are no paths", {
        "reliability/test_bad_requests.py": "test_names_that_are_paths",
        "provision/test_weights_safety.py": "test_hostile_names_are_refused test_whatever_passes_stays_inside test_a_link_that_leads_out"}),
    14: Check("No docker socket in any service", {"deploy/test_compose_text.py": "test_every_container_is_contained"}),
    15: Check("Containers: read-only, no capabilities, no root, limits", {
        "deploy/test_compose_text.py": "test_every_container_is_contained",
        "compose/test_images.py": "test_a_container_can_write_nothing_but_its_tmpfs",
        "compose/test_stack.py": "test_nothing_can_be_written_and_nobody_is_root"}),
    16: Check("Images and packages are pinned", {
        "deploy/test_images.py": "test_bases_are_pinned_and_name_no_registry",
        "provision/test_lock_files.py": "test_one_lock_file_for_each_environment"},
        "hashes of packages, SBOM and a weekly audit: not done"),
    17: Check("Each worker has exactly its own card", {
        "deploy/test_stack.py": "test_one_worker_per_placement_on_its_own_card",
        "compose/test_gpu_file.py": "test_each_container_has_exactly_its_own_card"}),
    18: Check("Secrets are files: in no environment, image, command line or log", {
        "deploy/test_compose_text.py": "test_no_secret_in_any_environment",
        "compose/test_stack.py": "test_no_secret_is_in_an_environment_a_command_line_or_a_log",
        "compose/test_images.py": "test_nothing_secret_and_nothing_needless_in_an_image",
        "worker/test_engines.py": "test_the_token_is_never_in_argv_or_environment"}),
    19: Check("Published on loopback by default", {
        "deploy/test_compose_text.py": "test_only_loopback_is_published_and_only_by_the_gateway_outside_profiles"}),
    20: Check("CORS: none", {"gateway/test_security.py": "test_no_page_is_given_leave_by_cors"}),
    21: Check("A page of another site can do nothing, with any unsafe verb", {
        "gateway/test_border.py": "test_a_page_of_another_site_is_refused test_every_unsafe_verb test_of_two_origins_both_count",
        "gateway/test_admin.py": "test_another_sites_page_can_not_administer"}),
    22: Check("Host header: known names only (DNS rebinding)", {
        "gateway/test_bad_input.py": "test_other_names_are_not test_names_of_loopback_are_allowed"}),
    23: Check("The dashboard runs nothing that came from a model or a client", {},
              "the dashboard's policy and its tests are being written"),
    24: Check("Prompts and answers are never written; errors do not repeat them", {
        "gateway/test_security.py": "test_nothing_of_a_prompt_or_an_answer_stays",
        "gateway/test_bad_input.py": "test_a_prompt_is_never_in_the_log",
        "diffusion/test_validation.py": "test_neither_a_sentence_nor_a_repr_holds_the_prompt"}),
    25: Check("No prompt and no key in a metric's labels", {
        "gateway/test_security.py": "test_nothing_of_a_prompt_or_an_answer_stays",
        "gateway/test_keys.py": "test_metrics_name_no_key test_no_part_of_a_key_is_in_database_log_or_metrics"}),
    26: Check("A cache salt for each key", {
        "gateway/test_salts.py": "test_vllm_gets_a_salt_of_the_key_and_no_other", "keys/test_key.py": "test_salts_differ_by_key_and_stay"},
        "`cached_tokens` of two keys on a real vLLM: not run here"),
    27: Check("Limits of body, head, depth, count and time", {
        "reliability/test_bad_requests.py": "test_50_mb test_bodies_that_cost_much_to_read",
        "reliability/test_protocol.py": "test_heads_that_are_too_large test_slow_heads_and_bodies test_a_body_that_drips "
                                        "test_idle_connections_and_more_than_may_be",
        "gateway/test_bad_input.py": "test_50_mb test_deep_nesting_in_a_field"}),
    28: Check("Regular expressions take linear time; grammars are bounded", {
        "gateway/test_security.py": "test_field_names_are_looked_at_in_linear_time", "reliability/test_bad_requests.py": "test_grammars"}),
    29: Check("Pictures: names that can't be guessed, that expire, for their own key; no metadata", {
        "gateway/test_images.py": "test_urls_cannot_be_guessed", "gateway/test_salts.py": "test_a_picture_is_its_own_keys",
        "reliability/test_images.py": "test_one_seed_twice_in_both_forms", "diffusion/test_picture.py": "test_pixels_and_only_pixels"}),
    30: Check("No debug routes; /openapi.json asks for a key; errors tell nothing of the inside", {
        "gateway/test_security.py": "test_no_error_tells_of_the_inside", "gateway/test_engine_errors.py": "test_insides_are_not_shown",
        "gateway/test_bad_input.py": "test_unknown_routes"}),
    31: Check("Each act of an administrator is a row of an append-only log", {
        "gateway/test_admin.py": "test_each_admin_route_leaves_one_row", "keys/test_store.py": "test_the_audit_log_only_grows"}),
    32: Check("SECURITY.md with the threat model and floors; `doctor` looks at the host's", {
        "gateway/test_security.py": "test_security_md_names_the_versions_that_are_pinned",
        "doctor/test_rules.py": "test_toolkit_floors test_every_hole_has_a_source"}),
}  # fmt: skip


def names_in(file: str) -> set[str]:
    """The names of the tests in a file below tests/."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test")}


def page() -> str:
    lines = [HEAD, "| # | control | tests | not covered |", "| --- | --- | --- | --- |"]
    for number, check in CHECKS.items():
        named = "; ".join(f"`tests/{file}`: {names.replace(' ', ', ')}" for file, names in check.tests.items())
        lines.append(f"| {number} | {check.control} | {named} | {check.lacks} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
    sys.exit(0)
