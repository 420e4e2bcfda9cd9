"""The list of rejected records."""

from html import unescape

import psycopg

from tests.api.conftest import Caller


def test_rejected_records(caller: Caller) -> None:
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into rejected_records"
            " (record_key, stream, remote_id, reason, payload, resolved_at)"
            " select 'opportunities:' || i, 'opportunities', i, 'WinProb is no number',"
            " jsonb_build_object('OptyId', i, 'WinProb', 'high'),"
            " case when i % 2 = 0 then now() end from generate_series(1, 10) as i"
        )
    first = caller.get("/api/rejected-records", params={"limit": 3}).json()
    assert first["total"] == 5
    assert [item["remote_id"] for item in first["items"]] == ["9", "7", "5"]
    assert first["items"][0]["payload"] == {"OptyId": 9, "WinProb": "high"}
    more = {"limit": 3, "cursor": first["next_cursor"]}
    last = caller.get("/api/rejected-records", params=more).json()
    assert [item["remote_id"] for item in last["items"]] == ["3", "1"]
    assert last["next_cursor"] is None
    assert caller.get("/api/rejected-records", params={"resolved": True}).json()["total"] == 10
    one = caller.get("/api/rejected-records", params={"remote_id": "7"}).json()
    assert [item["reason"] for item in one["items"]] == ["WinProb is no number"]
    assert caller.get("/api/rejected-records", params={"stream": "accounts"}).json()["total"] == 0


def test_a_payload_is_as_it_was_received(caller: Caller) -> None:
    payload = '{"Revenue": 24691357802469134.56, "Lines": [{}, [1, "é"]], "Price": 10.50}'
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into rejected_records (record_key, stream, reason, payload)"
            " values ('1', 'opportunities', 'no', %s), ('2', 'opportunities', 'no', null)",
            [payload],
        )
    answer = caller.get("/api/rejected-records")
    assert answer.headers["content-type"] == "application/json"
    assert [item["payload"] is None for item in answer.json()["items"]] == [True, False]
    for part in ('"Revenue":24691357802469134.56', '"Price":10.50', '[{},[1,"é"]]'):
        assert part in answer.text
    page = unescape(caller.get("/sync/rejects").text)
    assert '\n  "Revenue": 24691357802469134.56' in page
    assert '"Lines": [\n    {},\n    [\n      1,\n      "é"\n    ]\n  ]' in page
