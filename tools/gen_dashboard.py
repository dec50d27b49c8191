"""Write the chart's Grafana dashboard from the panels listed here; with `--check`, fail if it differs.

One row per stage of a decision, from what a fleet has to what its callers get.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOARD = ROOT / "charts" / "modelfleet" / "dashboards" / "modelfleet.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
F = 'namespace=~"$namespace",fleet=~"$fleet"'
"""Selects the figures of the chosen fleets."""
N = 'namespace=~"$namespace"'
"""Selects policies and sidecars in their namespaces."""
R = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    says: str
    queries: tuple[tuple[str, str], ...]
    """Expression and legend."""
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False


def _percentiles(name: str, by: str = "") -> tuple[tuple[str, str], ...]:
    grouped, legend = f"le, {by}" if by else "le", f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"histogram_quantile({part}, sum by ({grouped}) (rate({name}_bucket{{{N}}}[{R}])))",
            f"p{part * 100:.0f}{legend}",
        )
        for part in (0.5, 0.95, 0.99)
    )


def _stat(title: str, says: str, query: str, unit: str = "short") -> Panel:
    return Panel(title, says, ((query, ""),), unit, "stat", width=4, height=4)


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            _stat("Leader", "1 while an operator leads.", "sum(modelfleet_operator_leading)"),
            _stat(
                "Fleets not ready",
                "Fleets whose condition Ready does not hold.",
                f'count(modelfleet_fleet_condition{{{F},condition="Ready"}} == 0) or vector(0)',
            ),
            _stat(
                "Sidecars without lease",
                "Their requests are refused, or served within a floor.",
                f"count(modelfleet_sidecar_lease_live{{{N}}} == 0) or vector(0)",
            ),
            _stat(
                "Requests",
                "Answered requests per second, whatever the answer.",
                f"sum(rate(modelfleet_sidecar_requests_total{{{N}}}[{R}]))",
                "reqps",
            ),
            _stat(
                "Refused",
                "Part of the requests that got no decision.",
                f"sum(rate(modelfleet_sidecar_refusals_total{{{N}}}[{R}])) / "
                f"(sum(rate(modelfleet_sidecar_refusals_total{{{N}}}[{R}])) + "
                f"sum(rate(modelfleet_sidecar_decisions_total{{{N}}}[{R}])) > 0) or vector(0)",
                "percentunit",
            ),
            _stat(
                "Plan",
                "USD per hour of the plans.",
                f"sum(modelfleet_hourly_cost_usd{{{F}}})",
                "currencyUSD",
            ),
        ),
    ),
    (
        "GPUs and replicas",
        (
            Panel(
                "GPUs of each pool",
                "Planned, held by pods that exist, allowed by the manifest, offered by nodes.",
                ((f"modelfleet_pool_gpus{{{F}}}", "{{fleet}} {{pool}} {{state}}"),),
            ),
            Panel(
                "Price of one more GPU",
                "Weighted quality per second that one more GPU of the pool gains. 0: it does not bind.",
                ((f"modelfleet_gpu_price{{{F}}}", "{{fleet}} {{pool}}"),),
            ),
            Panel(
                "Slots",
                "Requests that ready endpoints may serve at once, and those that sidecars hold leases for.",
                (
                    (
                        f"sum by (fleet, model, variant, state) (modelfleet_slots{{{F}}})",
                        "{{model}}/{{variant}} {{state}}",
                    ),
                ),
            ),
            Panel(
                "Replicas wanted and ready",
                "By variant. What is wanted and not ready starts, or waits for GPUs.",
                (
                    (
                        f'modelfleet_replicas{{{F},state=~"desired|ready"}}',
                        "{{model}}/{{variant}} {{state}}",
                    ),
                ),
            ),
            Panel(
                "Replicas that leave",
                "Draining: no new request. Terminating: still holding their GPUs.",
                (
                    (
                        f'modelfleet_replicas{{{F},state=~"draining|terminating"}}',
                        "{{model}}/{{variant}} {{state}}",
                    ),
                ),
            ),
            Panel(
                "Price of a slot",
                "Weighted quality that one second of a slot is worth, as sidecars get it.",
                ((f"modelfleet_slot_price{{{F}}}", "{{model}}/{{variant}}"),),
            ),
        ),
    ),
    (
        "Plans",
        (
            Panel(
                "Gap of the plan",
                "Part of the bound that the plan may miss.",
                ((f"modelfleet_plan_gap{{{F}}}", "{{fleet}}"),),
                "percentunit",
            ),
            Panel(
                "Time of solving",
                "Seconds of the last solution, and of whole passes.",
                (
                    (f"modelfleet_plan_seconds{{{F}}}", "{{fleet}} plan"),
                    (
                        f"histogram_quantile(0.95, sum by (le) (rate(modelfleet_pass_seconds_bucket[{R}])))",
                        "pass p95",
                    ),
                ),
                "s",
            ),
            Panel(
                "Cost by the hour",
                "USD per hour of the plan and its limit.",
                (
                    (f"modelfleet_hourly_cost_usd{{{F}}}", "{{fleet}} plan"),
                    (f"modelfleet_hourly_budget_usd{{{F}}}", "{{fleet}} limit"),
                ),
                "currencyUSD",
            ),
            Panel(
                "Demand",
                "Requests per second that sidecars report.",
                ((f"modelfleet_demand_requests_per_second{{{F}}}", "{{fleet}}"),),
                "reqps",
            ),
            Panel(
                "What the plan rests on",
                "Held: demand is missing, the last plan stays. Assumed: no request was ever reported.",
                ((f"modelfleet_plan_basis{{{F}}} == 1", "{{fleet}} {{basis}}"),),
            ),
            Panel(
                "Passes and patches",
                "Passes over fleets and patches of /scale per second, by outcome.",
                (
                    (f"sum by (outcome) (rate(modelfleet_passes_total{{{F}}}[{R}]))", "pass {{outcome}}"),
                    (
                        f"sum by (outcome) (rate(modelfleet_scale_patches_total{{{F}}}[{R}]))",
                        "patch {{outcome}}",
                    ),
                ),
                "ops",
            ),
        ),
    ),
    (
        "Money",
        (
            Panel(
                "Budget of each policy",
                "USD of the present period: limit, granted to sidecars, spent.",
                (
                    (f"modelfleet_budget_limit_usd{{{N}}}", "{{policy}} limit"),
                    (f"modelfleet_budget_granted_usd{{{N}}}", "{{policy}} granted"),
                    (f"modelfleet_budget_spent_usd{{{N}}}", "{{policy}} spent"),
                ),
                "currencyUSD",
            ),
            Panel(
                "Spent part of the budget",
                "At 1 the money of the period is gone.",
                (
                    (
                        f"modelfleet_budget_spent_usd{{{N}}} / (modelfleet_budget_limit_usd{{{N}}} > 0)",
                        "{{policy}}",
                    ),
                ),
                "percentunit",
                "bargauge",
            ),
            Panel(
                "Spend by model",
                "USD per hour booked for answers.",
                (
                    (
                        f"sum by (model) (rate(modelfleet_sidecar_cost_usd_total{{{N}}}[{R}])) * 3600",
                        "{{model}}",
                    ),
                ),
                "currencyUSD",
                stacked=True,
            ),
        ),
    ),
    (
        "Requests",
        (
            Panel(
                "Requests by outcome",
                "Per second.",
                ((f"sum by (outcome) (rate(modelfleet_sidecar_requests_total{{{N}}}[{R}]))", "{{outcome}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Time to the end of an answer",
                "From a request's arrival, all models.",
                _percentiles("modelfleet_sidecar_request_seconds"),
                "s",
            ),
            Panel(
                "Time by model",
                "To the end of an answer, p95.",
                (_percentiles("modelfleet_sidecar_request_seconds", "model")[1],),
                "s",
            ),
            Panel(
                "Time to decide",
                "From a request's arrival, without the wait for a slot that is free.",
                _percentiles("modelfleet_sidecar_decide_seconds"),
                "s",
            ),
            Panel(
                "Event loop lag",
                "By how much the sidecars' event loops are late.",
                _percentiles("modelfleet_sidecar_loop_lag_seconds"),
                "s",
            ),
            Panel(
                "Decisions by model",
                "Per second: who answers.",
                (
                    (
                        f"sum by (model, variant) (rate(modelfleet_sidecar_decisions_total{{{N}}}[{R}]))",
                        "{{model}}/{{variant}}",
                    ),
                ),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Decisions by reason",
                "Per second. BudgetBinds and SlotsBind: a better model was out of reach.",
                ((f"sum by (reason) (rate(modelfleet_sidecar_decisions_total{{{N}}}[{R}]))", "{{reason}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Decisions by rule",
                "Per second: requests that a rule of the policy matched.",
                (
                    (
                        f"sum by (rule) (rate(modelfleet_sidecar_ruled_decisions_total{{{N}}}[{R}]))",
                        "{{rule}}",
                    ),
                ),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Refusals by reason",
                "Per second: requests that got no decision.",
                ((f"sum by (reason) (rate(modelfleet_sidecar_refusals_total{{{N}}}[{R}]))", "{{reason}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Waits by tier",
                "Seconds in the window and the queue, p95.",
                (_percentiles("modelfleet_sidecar_wait_seconds", "tier")[1],),
                "s",
            ),
            Panel(
                "Retries and cut streams",
                "Per second: attempts followed by another, and streams that broke after their first content.",
                (
                    (
                        f"sum by (reason) (rate(modelfleet_sidecar_retries_total{{{N}}}[{R}]))",
                        "retry {{reason}}",
                    ),
                    (
                        f"sum by (model) (rate(modelfleet_sidecar_cut_streams_total{{{N}}}[{R}]))",
                        "cut {{model}}",
                    ),
                    (
                        f"sum by (reason) (rate(modelfleet_sidecar_retries_withheld_total{{{N}}}[{R}]))",
                        "withheld {{reason}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Breakers",
                "The worst of any sidecar: 0 closed, 1 half open, 2 open.",
                (
                    (
                        f"max by (model, variant) (modelfleet_sidecar_breaker_state{{{N}}})",
                        "{{model}}/{{variant}}",
                    ),
                ),
            ),
            Panel(
                "Slots used at a time, at most",
                "Leased slots less what slow answers and status 429 keep back, over all sidecars.",
                (
                    (
                        f"sum by (model, variant) (modelfleet_sidecar_concurrency_limit{{{N}}})",
                        "{{model}}/{{variant}}",
                    ),
                ),
            ),
            Panel(
                "Answers by status",
                "Per second, by protocol and status code.",
                (
                    (
                        f"sum by (api, status) (rate(modelfleet_sidecar_responses_total{{{N}}}[{R}]))",
                        "{{api}} {{status}}",
                    ),
                ),
                "reqps",
                stacked=True,
            ),
        ),
    ),
    (
        "Assignment in the sidecars",
        (
            Panel(
                "Requests in a batch",
                "p95 and mean.",
                (
                    _percentiles("modelfleet_sidecar_batch_size")[1],
                    (
                        f"sum(rate(modelfleet_sidecar_batch_size_sum{{{N}}}[{R}])) / "
                        f"sum(rate(modelfleet_sidecar_batch_size_count{{{N}}}[{R}]))",
                        "mean",
                    ),
                ),
            ),
            Panel(
                "Time of assigning",
                "Seconds for one batch.",
                _percentiles("modelfleet_sidecar_solve_seconds"),
                "s",
            ),
            Panel(
                "Gap of assignments",
                "Proven distance from the best conceivable assignment.",
                _percentiles("modelfleet_sidecar_gap"),
                "percentunit",
            ),
            Panel(
                "How the solver ended",
                "Batches per second.",
                (
                    (
                        f"sum by (termination) (rate(modelfleet_sidecar_batches_total{{{N}}}[{R}]))",
                        "{{termination}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Queue",
                "Requests that wait for a place.",
                ((f"sum by (namespace) (modelfleet_sidecar_queue_length{{{N}}})", "{{namespace}}"),),
            ),
            Panel(
                "Faults",
                "Internal errors and prompts above their bound, per second; USD per hour billed above the "
                "bound. All must be 0.",
                (
                    (
                        f"sum by (stage) (rate(modelfleet_sidecar_internal_errors_total{{{N}}}[{R}]))",
                        "fault in {{stage}}",
                    ),
                    (
                        f"sum by (model) (rate(modelfleet_sidecar_prompts_above_bound_total{{{N}}}[{R}]))",
                        "prompts of {{model}}",
                    ),
                    (
                        f"sum(rate(modelfleet_sidecar_excess_usd_total{{{N}}}[{R}])) * 3600",
                        "excess USD per hour",
                    ),
                ),
            ),
        ),
    ),
    (
        "Leases and leader",
        (
            Panel(
                "Sidecars",
                "Connected, or silent for a minute; by their own word with a live lease, or draining.",
                (
                    (f"sum by (fleet) (modelfleet_fleet_sidecars{{{F}}})", "{{fleet}} connected"),
                    (f"sum by (fleet) (modelfleet_fleet_silent_sidecars{{{F}}})", "{{fleet}} silent"),
                    (
                        f"sum by (namespace) (modelfleet_sidecar_lease_live{{{N}}})",
                        "{{namespace}} live lease",
                    ),
                    (f"sum by (namespace) (modelfleet_sidecar_draining{{{N}}})", "{{namespace}} draining"),
                ),
            ),
            Panel(
                "Leased slots in the sidecars",
                "Free ones and those that requests use.",
                ((f"sum by (state) (modelfleet_sidecar_slots{{{N}}})", "{{state}}"),),
                stacked=True,
            ),
            Panel(
                "Money in the sidecars",
                "USD that can be reserved at once.",
                ((f"sum by (namespace) (modelfleet_sidecar_free_money_usd{{{N}}})", "{{namespace}}"),),
                "currencyUSD",
            ),
            Panel(
                "Leader and epoch",
                "A new leader has a higher epoch.",
                (
                    ("sum(modelfleet_operator_leading)", "leaders"),
                    ("max(modelfleet_operator_epoch)", "epoch"),
                    ("sum(modelfleet_capacity_reached)", "reached through the Service"),
                ),
            ),
            Panel(
                "Refused calls of the capacity service",
                "Per second, by reason; and reviews of tokens by outcome.",
                (
                    (
                        f"sum by (reason) (rate(modelfleet_capacity_refused_streams_total[{R}]))",
                        "refused {{reason}}",
                    ),
                    (
                        f"sum by (outcome) (rate(modelfleet_capacity_token_reviews_total[{R}]))",
                        "token {{outcome}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Conditions that do not hold",
                "Of fleets and policies; their messages say what to do.",
                (
                    (
                        f'1 - modelfleet_fleet_condition{{{F},condition!~"Stalled|Reconciling"}} == 1',
                        "{{fleet}} {{condition}}",
                    ),
                    (f"1 - modelfleet_policy_condition{{{N}}} == 1", "{{policy}} {{condition}}"),
                ),
            ),
        ),
    ),
    (
        "Estimates and learning",
        (
            Panel(
                "Quality of each model's answers",
                "Mean score from feedback, and what routing predicted; lately.",
                ((f"modelfleet_model_quality{{{N}}}", "{{policy}} {{model}} {{source}}"),),
                "percentunit",
            ),
            Panel(
                "Calibration",
                "Mean of recent scores less the estimates that routing went by. Below 0: it hoped too much.",
                ((f"modelfleet_estimator_calibration_error{{{N}}}", "{{policy}}"),),
            ),
            Panel(
                "Error of estimates",
                "Mean squared error against recent scores. Learning helps where used is below base.",
                ((f"modelfleet_estimator_error{{{N}}}", "{{policy}} {{estimate}}"),),
            ),
            Panel(
                "Scores behind the estimates",
                "From feedback, and from the judge; older ones count less.",
                (
                    (f"modelfleet_estimator_samples{{{N}}}", "{{policy}}"),
                    (f"modelfleet_judge_scored{{{N}}}", "{{policy}} judge"),
                ),
            ),
            Panel(
                "Standing of estimates",
                "Drift: scores moved away from estimates. RolledBack: what was learned is withdrawn.",
                ((f"modelfleet_estimator_standing{{{N}}} == 1", "{{policy}} {{standing}}"),),
            ),
            Panel(
                "Failures of learning",
                "Per second, by where; leases and routing go on.",
                ((f"sum by (where) (rate(modelfleet_learning_failures_total[{R}]))", "{{where}}"),),
                "ops",
            ),
            Panel(
                "Feedback to sidecars",
                "Per second by how it was said, and the mean score of each model.",
                (
                    (f"sum by (source) (rate(modelfleet_sidecar_feedback_total{{{N}}}[{R}]))", "{{source}}"),
                    (
                        f"sum by (model) (rate(modelfleet_sidecar_feedback_score_total{{{N}}}[{R}])) / "
                        f"sum by (model) (rate(modelfleet_sidecar_feedback_total{{{N}}}[{R}]))",
                        "mean score of {{model}}",
                    ),
                ),
            ),
            Panel(
                "The judge and the users",
                "Agreement on answers that both scored, above chance (kappa), and the judge's mean score.",
                (
                    (f"modelfleet_judge_agreement{{{N}}}", "{{policy}} agreement"),
                    (f"modelfleet_judge_kappa{{{N}}}", "{{policy}} kappa"),
                    (f"modelfleet_judge_mean_score{{{N}}}", "{{policy}} mean score"),
                ),
            ),
            Panel(
                "Answers chosen for the judge",
                "Per second, by what became of them, and how many wait.",
                (
                    (
                        f"sum by (outcome) (rate(modelfleet_sidecar_judged_answers_total{{{N}}}[{R}]))",
                        "{{outcome}}",
                    ),
                    (f"max(modelfleet_sidecar_judge_queue{{{N}}})", "most waiting in a sidecar"),
                ),
            ),
            Panel(
                "Cost of the judge",
                "USD per hour on its own account.",
                (
                    (
                        f"3600 * sum(rate(modelfleet_sidecar_judge_cost_usd_total{{{N}}}[{R}]))",
                        "USD per hour",
                    ),
                ),
            ),
            Panel(
                "Signs of poor answers",
                "Per second: asked again within minutes, or cut by the policy's limit of tokens.",
                (
                    (
                        f"sum by (model) (rate(modelfleet_sidecar_repeated_requests_total{{{N}}}[{R}]))",
                        "asked again {{model}}",
                    ),
                    (
                        f"sum by (model) (rate(modelfleet_sidecar_truncated_answers_total{{{N}}}[{R}]))",
                        "cut {{model}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Estimators in force",
                "Sidecars by the version that they route by; empty: the manifest's priors.",
                (
                    (
                        f"count by (version, learned) (modelfleet_sidecar_estimator_info{{{N}}})",
                        "{{version}} {{learned}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Estimates not used",
                "Per second: not trusted, plug-ins that failed, documents that could not be read.",
                (
                    (f"sum(rate(modelfleet_sidecar_low_confidence_total{{{N}}}[{R}]))", "low confidence"),
                    (f"sum(rate(modelfleet_sidecar_estimator_failures_total{{{N}}}[{R}]))", "plug-in"),
                    (
                        f"sum by (kind) (rate(modelfleet_sidecar_documents_refused_total{{{N}}}[{R}]))",
                        "refused {{kind}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Kinds of answers counted",
                "Cells of task, rule, model and group in each sidecar; they are bounded.",
                ((f"max(modelfleet_sidecar_experience_cells{{{N}}})", "most"),),
            ),
        ),
    ),
    (
        "Injector and certificates",
        (
            Panel(
                "Admissions",
                "Per second, by what became of the pod.",
                ((f"sum by (outcome) (rate(modelfleet_injector_admissions_total[{R}]))", "{{outcome}}"),),
                "ops",
            ),
            Panel(
                "Time of an admission",
                "Seconds that injection adds.",
                (
                    (
                        "histogram_quantile(0.99, sum by (le) "
                        f"(rate(modelfleet_injector_admission_seconds_bucket[{R}])))",
                        "p99",
                    ),
                ),
                "s",
            ),
            Panel(
                "Certificates",
                "Time until the certificates of injector and capacity service end.",
                (
                    ("min(modelfleet_injector_certificate_expiry_seconds) - time()", "injector"),
                    ("min(modelfleet_capacity_certificate_expiry_seconds > 0) - time()", "capacity"),
                ),
                "s",
            ),
        ),
    ),
)


def _variable(name: str, label: str) -> dict[str, object]:
    of = "modelfleet_fleet_condition" + ('{namespace=~"$namespace"}' if name == "fleet" else "")
    query = f"label_values({of}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    custom: dict[str, object] = {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}
    if panel.stacked:
        custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30}
    instant = panel.kind != "timeseries"
    options: dict[str, object] = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if not instant:
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    defaults: dict[str, object] = {"unit": panel.unit, "min": 0} | ({} if instant else {"custom": custom})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": instant,
                "range": not instant,
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _laid_out() -> Iterator[dict[str, object]]:
    number, y = 1, 0
    for title, panels in ROWS:
        at = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": at, "panels": []}
        number, x, y = number + 1, 0, y + 1
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + panel.height
            yield _panel(panel, number, x, y)
            number, x = number + 1, x + panel.width
        y += panels[-1].height


def board() -> str:
    """Return the dashboard as Grafana imports it."""
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    content = {
        "uid": "modelfleet",
        "title": "modelfleet",
        "description": "Fleets, policies and sidecars of modelfleet. docs/metrics.md describes every metric.",
        "tags": ["modelfleet"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {
            "list": [source, _variable("namespace", "Namespace"), _variable("fleet", "Fleet")],
        },
        "panels": list(_laid_out()),
    }
    return json.dumps(content, indent=2) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    text = board()
    if parser.parse_args().check:
        if not BOARD.exists() or BOARD.read_text(encoding="utf-8") != text:
            raise SystemExit("the chart's dashboard differs: run tools/gen_dashboard.py")
        print("the dashboard is up to date")
        return
    BOARD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
