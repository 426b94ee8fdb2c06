"""Contacts come in by the file: what goes in, what is refused and why, and what is left alone."""

import io
from typing import Any

import pytest

from campaigns.actions import TooManyRows, import_contacts
from campaigns.imports import ImportReport
from campaigns.models import Contact, SocialAccount
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import tenant_scope


def csv(tenant: Tenant, text: str | bytes, **options: Any) -> ImportReport:
    data = text if isinstance(text, bytes) else text.encode()
    return import_contacts(tenant_id=tenant.pk, file=io.BytesIO(data), **options)


def objects(tenant: Tenant, *rows: object) -> ImportReport:
    return import_contacts(tenant_id=tenant.pk, rows=rows)


def counts(report: ImportReport) -> tuple[int, int, int, int]:
    return report.created, report.updated, report.unchanged, report.rejected_count


def stored(tenant: Tenant) -> dict[str, dict[str, Any]]:
    with tenant_scope(tenant.pk):
        fields = ("phone", "email", "name", "timezone", "attributes")
        return {row.pop("external_id"): row for row in Contact.objects.values("external_id", *fields)}


def accounts(tenant: Tenant) -> set[tuple[str, str, str, str]]:
    with tenant_scope(tenant.pk):
        fields = ("contact__external_id", "platform", "user_id", "username")
        return set(SocialAccount.objects.values_list(*fields))


def test_a_file_brings_every_field(acme: Tenant) -> None:
    report = csv(
        acme,
        "external_id,phone,email,name,timezone,attributes.city,attributes.Size,instagram,facebook_id\n"
        "c1,+49 1512 3456789,Ann@Example.ORG,Ann,,Berlin,,@Ann.B,1001\n"
        "c2,,,Bob,Asia/Tokyo,,XL,,\n",
    )
    assert counts(report) == (2, 0, 0, 0)
    assert stored(acme) == {
        "c1": {
            "phone": "+4915123456789",
            "email": "ann@example.org",
            "name": "Ann",
            "timezone": "Europe/Berlin",
            "attributes": {"city": "Berlin"},
        },
        "c2": {
            "phone": "",
            "email": "",
            "name": "Bob",
            "timezone": "Asia/Tokyo",
            "attributes": {"Size": "XL"},
        },
    }
    assert accounts(acme) == {("c1", "instagram", "", "ann.b"), ("c1", "facebook", "1001", "")}


def test_good_rows_go_in_beside_bad_ones_which_are_told_apart_by_line(acme: Tenant) -> None:
    report = csv(
        acme,
        "external_id,phone,email,timezone,attributes\n"
        "ok,+14155550123,,,\n"
        ",+14155550123,,,\n"
        'two\nlines,"+49 1",nobody,Mars/Olympus,\n'
        "\n"
        "short,+14155550123\n"
        "json,,,,[1]\n"
        'quote,,"a"b,,\n'
        "last,+12015550123,,,\n",
    )
    # An external id with a line break outside quotes is two rows, each with its own fault.
    assert [row for row, _ in report.rejected] == [3, 4, 5, 7, 8, 9]
    reasons = dict(report.rejected)
    assert reasons[3] == ["external_id: is missing"]
    assert reasons[4] == ["has 1 cells where the header has 5"]
    assert [error.partition(":")[0] for error in reasons[5]] == ["phone", "email", "timezone"]
    assert reasons[7] == ["has 2 cells where the header has 5"]
    assert reasons[8] == ["attributes: is not a JSON object"]
    assert reasons[9] == ['has a quote (") in the wrong place']
    assert set(stored(acme)) == {"ok", "last"}


def test_lines_are_counted_as_an_editor_does_when_cells_hold_line_breaks(acme: Tenant) -> None:
    report = csv(acme, 'external_id,name\n"c1","Ann\nBell"\nbad,a,b\n')
    assert report.rejected == [(4, ["has 3 cells where the header has 2"])]
    assert stored(acme)["c1"]["name"] == "Ann\nBell"


def test_the_last_row_of_a_contact_counts_and_the_earlier_are_reported(acme: Tenant) -> None:
    report = csv(acme, "external_id,name,tiktok\nc1,Old,old\nc2,Bob,\nc1,New,new\n")
    assert counts(report) == (2, 0, 0, 1)
    assert report.rejected == [(2, ["external_id: c1 comes again in row 4, which counts"])]
    assert stored(acme)["c1"]["name"] == "New"
    assert accounts(acme) == {("c1", "tiktok", "", "new")}


def test_the_same_file_again_changes_nothing(acme: Tenant) -> None:
    text = "external_id,phone,attributes.n,youtube\nc1,+14155550123,1,@ann\nc2,,2,\n"
    csv(acme, text)
    with tenant_scope(acme.pk):
        before = list(Contact.objects.values())
    assert counts(csv(acme, text)) == (0, 0, 2, 0)
    with tenant_scope(acme.pk):
        assert list(Contact.objects.values()) == before


def test_what_a_row_leaves_out_stays_as_it_is(acme: Tenant) -> None:
    csv(acme, "external_id,name,email,attributes.a,attributes.b\nc1,Ann,ann@example.org,1,2\n")
    report = csv(acme, "external_id,name,attributes.b,attributes.c\nc1,,3,4\n")
    assert counts(report) == (0, 1, 0, 0)
    contact = stored(acme)["c1"]
    assert (contact["name"], contact["email"]) == ("Ann", "ann@example.org")
    assert contact["attributes"] == {"a": "1", "b": "3", "c": "4"}


@pytest.mark.parametrize(
    ("first", "second", "zone"),
    [
        ("+4915123456789,", "+4915123456789,", "Europe/Berlin"),
        ("+4915123456789,Asia/Tokyo", "+4915123456789,", "Asia/Tokyo"),  # said once, kept
        ("+4915123456789,Asia/Tokyo", "+4915123456780,", "Europe/Berlin"),  # a new number, a new zone
        ("+4915123456789,", "+79123451352,", ""),  # Russia: eleven zones, and Berlin would be a lie
        ("+4915123456789,", ",", "Europe/Berlin"),
        (",Asia/Tokyo", "+4915123456789,", "Europe/Berlin"),
        (",", "+4915123456789,Asia/Tokyo", "Asia/Tokyo"),
    ],
)
def test_the_time_zone_follows_the_number_until_somebody_says_otherwise(
    acme: Tenant, first: str, second: str, zone: str
) -> None:
    for cells in (first, second):
        assert csv(acme, f"external_id,phone,timezone\nc1,{cells}\n").rejected == []
    assert stored(acme)["c1"]["timezone"] == zone


def test_the_other_tenant_notices_nothing(acme: Tenant, globex: Tenant) -> None:
    csv(globex, "external_id,name,instagram\nc1,Theirs,ann\n")
    report = csv(acme, "external_id,name,instagram\nc1,Ours,ann\n")
    assert counts(report) == (1, 0, 0, 0)
    assert stored(globex)["c1"]["name"] == "Theirs"
    assert accounts(globex) == accounts(acme) == {("c1", "instagram", "", "ann")}


def test_an_account_of_another_contact_is_refused_with_the_whole_row(acme: Tenant) -> None:
    csv(acme, "external_id,instagram,facebook_id\nc1,ann,77\n")
    report = csv(
        acme,
        "external_id,name,instagram,facebook_id\nc2,Thief,Ann,\nc3,Cid,cid,\nc4,Dee,CID,\nc5,Eve,,77\nc1,A,ann,\n",
    )
    assert report.rejected == [
        (2, ["accounts: instagram ann belongs to contact c1"]),
        (4, ["accounts: instagram cid belongs to row 3"]),
        (5, ["accounts: facebook 77 belongs to contact c1"]),
    ]
    assert set(stored(acme)) == {"c1", "c3"}


def test_an_account_seen_under_both_its_names_becomes_one(acme: Tenant) -> None:
    def platform(**names: str) -> dict[str, object]:
        return {"external_id": "c1", "accounts": [{"platform": "instagram", **names}]}

    objects(acme, platform(username="ann"))
    objects(acme, platform(user_id="9"))
    assert len(accounts(acme)) == 2
    report = objects(acme, platform(user_id="9", username="ann"))
    assert counts(report) == (0, 1, 0, 0)
    assert accounts(acme) == {("c1", "instagram", "9", "ann")}
    objects(acme, platform(user_id="9", username="ann.new"))
    assert accounts(acme) == {("c1", "instagram", "9", "ann.new")}


def test_objects_come_with_the_fields_of_the_api(acme: Tenant) -> None:
    report = objects(
        acme,
        {"external_id": 17, "name": "Ann", "attributes": {"age": 30, "tags": ["a"]}, "phone": None},
        {"external_id": "x", "phnoe": "+1"},
        "c3",
        {"external_id": "y", "attributes": [1], "accounts": [{"platform": "orkut", "username": "y"}]},
        {"external_id": "z", "name": "a\x00b", "attributes": {"k": "\ud800"}},
    )
    assert stored(acme)["17"]["attributes"] == {"age": 30, "tags": ["a"]}
    assert [row for row, _ in report.rejected] == [2, 3, 4, 5]
    assert report.rejected[0][1] == ["phnoe: no such field"]
    assert report.rejected[2][1] == [
        "attributes: must be an object",
        "accounts: platform must be one of facebook, instagram, tiktok, youtube",
    ]
    assert len(report.rejected[3][1]) == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_any_spreadsheet_are_read(acme: Tenant, delimiter: str, encoding: str, newline: str) -> None:
    lines = [["External ID", "Name", "attributes.note"], ["c1", "Zoë", "a,b;c"], ["c2", "", ""]]
    text = newline.join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)
    assert counts(csv(acme, text.encode(encoding))) == (2, 0, 0, 0)
    assert stored(acme)["c1"]["attributes"] == {"note": "a,b;c"}
    assert stored(acme)["c1"]["name"] == "Zoë"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"name,phone\nAnn,+1\n", r"no column external_id in the first line \(found: name, phone\)"),
        (b"external_id,city\nc1,Bonn\n", "call it attributes.city"),
        (b"external_id,name,name\nc1,a,b\n", "two columns are called name"),
        (b"external_id,,\nc1,,\n", "two columns are called nothing at all"),
        (b"external_id,name\nc1,Zo\xeb\n", "not UTF-8"),
        ("external_id,name\nc1,Zoë\n".encode("utf-16"), "in UTF-16"),
        (b"PK\x03\x04\x14\x00\x06\x00", "a workbook or an archive"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "is binary"),
        (b'external_id,name\nc1,Ann\nc2,"Bob\nc3,Cid\n', r"line 3: a quote \(\"\) is opened there"),
        (b'"external_id,name\nc1,Ann\n', "no column external_id"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_leaves_nothing(
    acme: Tenant, data: bytes, said: str
) -> None:
    with pytest.raises(ActionRefused, match=said) as refused:
        csv(acme, data)
    assert "\n" not in str(refused.value)
    assert stored(acme) == {}


def test_a_late_unreadable_line_leaves_nothing(acme: Tenant) -> None:
    head = b"external_id\n" + b"".join(b"c%d\n" % number for number in range(20_000))
    with pytest.raises(ActionRefused, match="not UTF-8"):
        csv(acme, head + b"\xff\n")
    assert stored(acme) == {}


def test_numbers_without_a_country_code_need_a_region(acme: Tenant) -> None:
    text = "external_id,phone\nc1,0151 23456789\n"
    assert csv(acme, text).rejected == [
        (2, ["phone: has no country code: write it as +49…, or name a region"])
    ]
    assert counts(csv(acme, text, region="DE")) == (1, 0, 0, 0)
    assert stored(acme)["c1"]["phone"] == "+4915123456789"
    with pytest.raises(ActionRefused, match="no region"):
        csv(acme, text, region="Germany")


def test_more_rows_than_allowed_leave_nothing(acme: Tenant) -> None:
    with pytest.raises(TooManyRows, match="more than 2 rows"):
        import_contacts(
            tenant_id=acme.pk, rows=({"external_id": str(number)} for number in range(3)), max_rows=2
        )
    assert stored(acme) == {}


def test_rows_are_read_as_they_are_needed_and_progress_is_told(acme: Tenant) -> None:
    told: list[int] = []
    rejected: list[int] = []
    import_contacts(
        tenant_id=acme.pk,
        rows=({"external_id": "" if number == 5 else str(number)} for number in range(12_000)),
        on_progress=told.append,
        on_rejected=lambda row, errors: rejected.append(row),
    )
    assert told == [10_000, 12_000]
    assert rejected == [6]
    assert len(stored(acme)) == 11_999
