"""`import_contacts TENANT FILE.csv`: the good rows go in, the bad ones come back in a file of their own."""

import csv
import io
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from campaigns.models import Contact
from tenants.models import Tenant
from tenants.scope import tenant_scope

TEXT = 'external_id,phone,name\nc1,+14155550123,Ann\nc2,12,"Bob\nBell"\nc3,,Cid,x\nc1,+14155550123,Ann B\n'


def run(*args: object) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("import_contacts", *map(str, args), stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def names(tenant: Tenant) -> list[str]:
    with tenant_scope(tenant.pk):
        return list(Contact.objects.values_list("name", flat=True))


def test_it_imports_reports_and_writes_the_rejected_rows(
    acme: Tenant, globex: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(TEXT)
    out, err = run("acme", file)
    rejected = tmp_path / "people.rejected.csv"
    assert out == f"1 created, 0 updated, 0 unchanged, 3 rejected (see {rejected})\n"
    assert "line 3: phone: has no country code" in err
    with rejected.open(newline="") as lines:
        assert [row[:3] + row[-2:-1] for row in csv.reader(lines)] == [
            ["external_id", "phone", "name", "line"],
            ["c1", "+14155550123", "Ann", "2"],
            ["c2", "12", "Bob\nBell", "3"],
            ["c3", "", "Cid", "5"],
        ]
    assert (names(acme), names(globex)) == (["Ann B"], [])
    rejected.write_text("external_id,phone,name,line,reasons\nc2,+12015550123,Bob,3,mended\n")
    assert run("acme", rejected)[0].startswith("1 created")


def test_a_clean_import_leaves_no_rejected_file_not_even_an_old_one(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text(TEXT)
    run(acme.pk, file)
    file.write_text("external_id,phone\nc1,0151 23456789\n")
    out, _ = run(acme.pk, file, "--region", "de")
    assert out == "0 created, 1 updated, 0 unchanged, 0 rejected\n"
    assert [path.name for path in tmp_path.iterdir()] == ["people.csv"]


@pytest.mark.parametrize(
    ("tenant", "data", "said"),
    [
        ("nobody", b"external_id\nc1\n", "there is no tenant 'nobody'"),
        ("acme", None, "No such file"),
        ("acme", b"name\nAnn\n", "no column external_id"),
        ("acme", b"external_id,name\nc1,Ann\nc2,\xff\n", "not UTF-8"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_half_done(
    acme: Tenant, tmp_path: Path, tenant: str, data: bytes | None, said: str
) -> None:
    file = tmp_path / "people.csv"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(CommandError, match=said) as error:
        run(tenant, file)
    assert "\n" not in str(error.value)
    assert names(acme) == []
    assert not (tmp_path / "people.rejected.csv").exists()
