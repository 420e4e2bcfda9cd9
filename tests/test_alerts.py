"""The alert rules for Prometheus, with its own `promtool`."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from database.environment import ROOT

RULES = ROOT / "orchestrate/deploy/prometheus/alerts.yml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
# promtool's notation, with a value every five minutes: `a+bxn` is a, a + b, ..., a + n * b.
# Its clock starts at 0.
STEPS = 13 * 12
NOW = f"0+300x{STEPS}"
REQUESTS = 'api_request_duration_seconds_count{job="oracle-crm",status="%s"}'
WELL = {
    "oracle_crm_sync_last_succeeded": f"1x{STEPS}",
    "oracle_crm_sync_freshness_seconds": f"3600x{STEPS}",
    "oracle_crm_sync_running": f"0x{STEPS}",
    "oracle_crm_rejected_records": f"0x{STEPS}",
    "oracle_crm_unknown_status_opportunities": f"0x{STEPS}",
    "oracle_crm_reconcile_last_timestamp_seconds": NOW,
    "oracle_crm_reconcile_last_missed_records": f"0x{STEPS}",
    "oracle_crm_scheduled_jobs_failed": f"0x{STEPS}",
    "oracle_crm_scheduler_heartbeat_timestamp_seconds": NOW,
    'oracle_crm_open_incidents{kind="empty"}': f"0x{STEPS}",
    "oracle_crm_notifications_not_accepted": f"0x{STEPS}",
    'up{job="oracle-crm"}': f"1x{STEPS}",
    REQUESTS % 200: f"0+60x{STEPS}",
    REQUESTS % 500: f"0+1x{STEPS}",
}
# Each alert, and a series that must trigger it.
WRONG = [
    ("OracleCrmSyncFailed", "oracle_crm_sync_last_succeeded", f"0x{STEPS}"),
    ("OracleCrmSyncLate", "oracle_crm_sync_freshness_seconds", f"93601x{STEPS}"),
    ("OracleCrmSyncStuck", "oracle_crm_sync_running", f"1x{STEPS}"),
    ("OracleCrmRecordsRejected", "oracle_crm_rejected_records", f"1x{STEPS}"),
    ("OracleCrmStatusUnknown", "oracle_crm_unknown_status_opportunities", f"1x{STEPS}"),
    ("OracleCrmReconcileLate", "oracle_crm_reconcile_last_timestamp_seconds", f"-260000x{STEPS}"),
    ("OracleCrmReconcileMissed", "oracle_crm_reconcile_last_missed_records", f"1x{STEPS}"),
    ("OracleCrmScheduledJobFailed", "oracle_crm_scheduled_jobs_failed", f"1x{STEPS}"),
    (
        "OracleCrmSchedulerSilent",
        "oracle_crm_scheduler_heartbeat_timestamp_seconds",
        f"0+300x{STEPS - 12} {300 * (STEPS - 12)}x12",
    ),
    ("OracleCrmIncidentOpen", 'oracle_crm_open_incidents{kind="empty"}', f"1x{STEPS}"),
    ("OracleCrmNotificationsNotAccepted", "oracle_crm_notifications_not_accepted", f"1x{STEPS}"),
    ("OracleCrmApiDown", 'up{job="oracle-crm"}', f"0x{STEPS}"),
    ("OracleCrmApiDown", 'up{job="oracle-crm"}', "_"),
    ("OracleCrmApiErrors", REQUESTS % 500, f"0+6x{STEPS}"),
]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: make test-alerts"
)


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint-fatal", RULES)


@needs_promtool
def test_each_alert_fires_when_it_should_and_no_other_does(tmp_path: Path) -> None:
    assert {alert for alert, _, _ in WRONG} == ALERTS.keys()
    cases = [("", "", ""), *WRONG]
    tests = [
        {
            "name": f"{alert} {values}",
            "interval": "5m",
            "input_series": [
                {"series": name, "values": value}
                for name, value in (WELL | ({series: values} if series else {})).items()
            ],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": f"{5 * STEPS}m",
                    "exp_samples": [
                        {"labels": f'{{alertname="{alert}"}}', "value": 1} for _ in [0] if alert
                    ],
                }
            ],
        }
        for alert, series, values in cases
    ]
    file = tmp_path / "alerts.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": tests})
    )
    promtool("test", "rules", file)
