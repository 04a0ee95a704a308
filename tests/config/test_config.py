"""The configuration: what it refuses, where it comes from, and that every source means the same."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async._writer.buffer import RECORD_OVERHEAD
from audit_async.config import (
    AuditConfig,
    Batched,
    Disabled,
    Hybrid,
    Immediate,
    Local,
    PresetName,
    Redaction,
    RetentionPolicy,
    RotationPolicy,
)
from audit_async.config.audit_config import RECORD_ROOM
from audit_async.config.environment import COMMAND_VARIABLES
from audit_async.config.overrides import Overrides
from audit_async.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples" / "config"
PRESETS: tuple[PresetName, ...] = get_args(PresetName)

Make = Callable[..., object]


def valid(**settings: object) -> AuditConfig:
    """Make a configuration of the required settings and `settings`, which may be of a wrong type."""
    make: Callable[..., AuditConfig] = AuditConfig
    return make(**{"mode": Local("/var/lib/audit"), "service_id": "orders", **settings})


# -- every valid configuration, and its text ------------------------------------------------------------------

_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}(\.[a-z]{1,5})?", fullmatch=True)
_seconds = st.floats(min_value=0.001, max_value=86_400)
_paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30).map(
    lambda text: f"/{text}"
)


_dir_modes = st.sampled_from(["0700", "0750", 0o2755])
_file_modes = st.sampled_from(["0600", "0640", 0o644])
_groups = st.integers(0, 1000) | st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)


@st.composite
def configs(draw: st.DrawFn) -> AuditConfig:
    """Draw a configuration with every setting chosen."""
    events = draw(st.integers(112, 10_000_000))
    event_bytes = draw(st.integers(1024, 64 * 1024**2))
    deleted = draw(st.integers(1, 36_500))
    batches = st.integers(1, 100)
    return AuditConfig(
        mode=draw(
            st.builds(Local, _paths, dir_mode=_dir_modes, file_mode=_file_modes, group=_groups) | st.builds(Disabled)
        ),
        service_id=draw(_names),
        flush_mode=draw(
            st.builds(Immediate, max_delay=st.floats(0, 60))
            | st.builds(Batched, size=batches, interval=_seconds)
            | st.builds(Hybrid, batch_size=batches, batch_interval=_seconds, critical_immediate=st.booleans())
        ),
        rotation=draw(
            st.builds(
                RotationPolicy,
                daily=st.booleans(),
                max_bytes=st.integers(1024, 1024**4),
                index_sealed=st.booleans(),
            )
        ),
        retention=RetentionPolicy(
            min_retention_days=draw(st.integers(1, deleted)),
            archive_after_days=draw(st.integers(0, deleted)),
            delete_after_days=deleted,
        ),
        instance=draw(st.none() | _names),
        buffer_events=events,
        buffer_bytes=draw(st.integers((event_bytes + 1024) * 2, 1024**4)),
        on_unsafe=draw(st.sampled_from(["escape", "reject"])),
        max_field_chars=draw(st.integers(64, event_bytes)),
        max_event_bytes=event_bytes,
        redaction=Redaction(
            enabled=draw(st.booleans()),
            keys=tuple(draw(st.lists(_names, min_size=1, max_size=3))),
            extra_keys=tuple(draw(st.lists(_names, max_size=3))),
            values=draw(st.booleans()),
        ),
        drain_timeout=draw(_seconds),
        handle_signals=draw(st.booleans()),
        allow_insecure_dir=draw(st.booleans()),
        low_disk_bytes=draw(st.integers(0, 1024**4)),
    )


def plain(config: AuditConfig) -> dict[str, object]:
    """Return every setting as a file has it: tables, texts, numbers; None is left out."""
    table: dict[str, object] = msgspec.to_builtins(config)
    return {name: value for name, value in table.items() if value is not None}


def to_toml(table: dict[str, object]) -> str:
    """Write one table, its tables last."""
    flat = [f"{name} = {_literal(value)}" for name, value in table.items() if not isinstance(value, dict)]
    nested = [f"[{name}]\n{to_toml(value)}" for name, value in table.items() if isinstance(value, dict)]
    return "\n".join([*flat, *nested])


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def to_variables(table: dict[str, object]) -> dict[str, str]:
    """Write a whole configuration as variables."""
    variables: dict[str, str] = {}
    for name, value in table.items():
        if not isinstance(value, dict):
            variables[f"AUDIT_{name.upper()}"] = _text(value)
            continue
        room = {"mode": "", "flush_mode": "FLUSH_"}.get(name, f"{name.upper()}_")
        for member, own in value.items():
            variables[f"AUDIT_{name.upper() if member == 'type' else room + member.upper()}"] = _text(own)
    return variables


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


@settings(deadline=None)  # a busy machine breaks no promise
@given(config=configs())
def test_a_file_means_what_code_means(config: AuditConfig) -> None:
    """Every configuration can be written as TOML and is read back as the same one."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(to_toml(plain(config)).encode())
        file.flush()

        assert AuditConfig.load(file.name) == config


@settings(deadline=None)  # a busy machine breaks no promise
@given(config=configs())
def test_the_environment_reaches_every_setting(config: AuditConfig) -> None:
    """Every configuration can be given in variables alone, and is read back as the same one."""
    assert AuditConfig.from_env(environ=to_variables(plain(config))) == config


@settings(deadline=None)  # a busy machine breaks no promise
@given(config=configs())
def test_equal_configurations_are_interchangeable(config: AuditConfig) -> None:
    """A configuration equals and hashes like one that is made anew of its settings."""
    again = AuditConfig(**msgspec.structs.asdict(config))

    assert again == config
    assert hash(again) == hash(config)


# -- construction ---------------------------------------------------------------------------------------------


def test_the_defaults_are_those_that_the_documentation_names() -> None:
    """What is left out has the documented value."""
    config = AuditConfig(mode=Local("./audit"), service_id="orders")

    assert plain(config) == {
        "mode": {"type": "local", "base_dir": "./audit", "dir_mode": "0700", "file_mode": "0600", "group": None},
        "service_id": "orders",
        "flush_mode": {"type": "immediate", "max_delay": 0.0},
        "rotation": {"daily": True, "max_bytes": 100 * 1024**2, "index_sealed": False},
        "retention": {
            "min_retention_days": 2555,
            "archive_after_days": 90,
            "delete_after_days": 2555,
            "automatic": True,
            "archive_recipients": (),
            "hold_unshipped": False,
            "min_copies": 2,
        },
        "buffer_events": 10_000,
        "buffer_bytes": 10 * 1024**2,
        "on_unsafe": "escape",
        "max_field_chars": 1024,
        "max_event_bytes": 64 * 1024,
        "redaction": {"enabled": True, "keys": Redaction().keys, "extra_keys": (), "values": True},
        "drain_timeout": 10.0,
        "handle_signals": True,
        "allow_insecure_dir": False,
        "low_disk_bytes": 64 * 1024**2,
    }
    assert config.instance is None
    assert Batched() == Batched(size=100, interval=1.0)
    assert Hybrid() == Hybrid(batch_size=100, batch_interval=1.0, critical_immediate=True)


@pytest.mark.parametrize("group", [valid(), valid().mode, Batched(), Hybrid(), RotationPolicy(), RetentionPolicy()])
def test_settings_are_frozen(group: msgspec.Struct) -> None:
    """No setting changes under a log that is running."""
    for name in group.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(group, name, getattr(group, name))


def test_a_base_directory_is_a_path_in_any_form() -> None:
    """Text and path objects mean the same directory."""
    assert Local(Path("audit") / "here") == Local("audit/here")


def test_whole_seconds_are_seconds() -> None:
    """An int is good where seconds are due, and is kept as a float."""
    assert repr(Batched(interval=2)) == "Batched(size=100, interval=2.0)"


def test_a_disabled_log_needs_no_service() -> None:
    """Without a trail, nobody has to say whose it is."""
    assert AuditConfig(mode=Disabled()).service_id == ""


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "field", "wrong"),
    [
        (Local, "mode.base_dir", [None, 3, b"audit", "", "~/audit", "~", "a\0b", ["audit"]]),
        (Immediate, "flush_mode.max_delay", [-0.001, True, NAN, INF, "0.002", None, 60.5]),
        (Batched, "flush_mode.size", [0, -1, True, 1.0, "100", None, 1_000_001, 2**70]),
        (Batched, "flush_mode.interval", [0, -1.0, True, NAN, INF, -INF, "1.0", None, 86_401]),
        (Hybrid, "flush_mode.batch_size", [0, -1, False, 1.5, "100", None, 1_000_001]),
        (Hybrid, "flush_mode.batch_interval", [0.0, NAN, INF, "1", None, True]),
        (Hybrid, "flush_mode.critical_immediate", [1, 0, "true", None]),
        (RotationPolicy, "rotation.daily", [1, 0, "true", None]),
        (RotationPolicy, "rotation.index_sealed", [1, 0, "true", None]),
        (RotationPolicy, "rotation.max_bytes", [0, 1023, -1, True, 1e6, "100MiB", None, 2**41, 2**70]),
        (RetentionPolicy, "retention.min_retention_days", [0, -1, True, 1.0, "1", None, 36_501]),
        (RetentionPolicy, "retention.archive_after_days", [-1, True, 1.0, "1", None, 36_501]),
        (RetentionPolicy, "retention.delete_after_days", [0, -1, True, 1.0, "1", None, 36_501]),
        (RetentionPolicy, "retention.automatic", [0, 1, "no", None]),
        (valid, "mode", [None, "local", "./audit", Local, {"type": "disabled"}, Batched()]),
        (valid, "flush_mode", [None, "batched", Immediate, {"type": "batched"}, Local("audit")]),
        (valid, "rotation", [None, True, RotationPolicy, {"daily": True}, RetentionPolicy()]),
        (valid, "retention", [None, 90, RetentionPolicy, {}, RotationPolicy()]),
        (valid, "buffer_events", [0, 1, -1, True, 1e4, "10000", None, 10_000_001, 2**70]),
        (valid, "buffer_bytes", [0, 4095, -1, True, 1e7, "10MiB", None, 2**41, 2**70]),
        (valid, "on_unsafe", ["", "Escape", "drop", None, True, 1]),
        (valid, "max_field_chars", [0, 63, -1, True, 1e3, "1024", None, 2**70]),
        (valid, "max_event_bytes", [0, 1023, -1, True, 1e5, "64KiB", None, 2**70]),
        (valid, "drain_timeout", [0, -1, True, NAN, INF, "10", None]),
        (valid, "handle_signals", [1, 0, "true", None]),
        (valid, "allow_insecure_dir", [1, 0, "true", None]),
        (valid, "low_disk_bytes", [-1, True, 1.0, "64MiB", None, 2**41]),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_wrong_value_is_refused_under_its_setting_s_name(make: Make, field: str, wrong: list[object]) -> None:
    """Whatever can't work is a ConfigError that names the setting and says what is allowed."""
    for value in wrong:
        with pytest.raises(ConfigError, match=r"allowed: \S") as caught:
            make(**{field.rpartition(".")[2]: value})

        assert caught.value.field == field


@pytest.mark.parametrize("field", ["service_id", "instance"])
@pytest.mark.parametrize(
    "name",
    ["..", ".", ".a", "-a", "_a", "a..b", "a/b", "a\\b", "a b", "a\n", 'a"b', "ä", "٣", "a\0", "a" * 65, 3, b"a", True],
)
def test_a_name_that_no_directory_or_record_may_have_is_refused(field: str, name: object) -> None:
    """A service or instance can't leave its directory, and stands in a record without escapes."""
    with pytest.raises(ConfigError, match=r"letters, digits") as caught:
        valid(**{field: name})

    assert caught.value.field == field


@pytest.mark.parametrize("name", ["a", "0", "00", "a" * 64, "eu-west_1.orders", "A.b-c_d"])
def test_ordinary_names_are_taken(name: str) -> None:
    """Letters, digits, dots, underscores and hyphens make a name."""
    assert valid(service_id=name, instance=name).instance == name


def test_a_local_log_needs_a_service() -> None:
    """A trail that doesn't say whose it is can't be made."""
    with pytest.raises(ConfigError, match="missing") as caught:
        AuditConfig(mode=Local("audit"))

    assert caught.value.field == "service_id"


@pytest.mark.parametrize(
    ("make", "field", "other"),
    [
        (lambda: RetentionPolicy(min_retention_days=100, delete_after_days=99), "retention.delete_after_days", "100"),
        (
            lambda: RetentionPolicy(min_retention_days=1, archive_after_days=31, delete_after_days=30),
            "retention.archive_after_days",
            "30",
        ),
        (lambda: valid(max_field_chars=65_537), "max_field_chars", "65536"),
        (lambda: valid(buffer_bytes=65_536), "max_event_bytes", "65536"),
        (lambda: valid(max_event_bytes=9 * 1024**2 + 1024**2), "max_event_bytes", "10485760"),
        (lambda: valid(buffer_events=100, flush_mode=Batched(size=91)), "flush_mode.size", "90"),
        (lambda: valid(buffer_events=100, flush_mode=Hybrid(batch_size=91)), "flush_mode.batch_size", "90"),
    ],
)
def test_settings_that_can_never_work_together_are_refused(make: Make, field: str, other: str) -> None:
    """The error names one setting and the value of the other that it can't work with."""
    with pytest.raises(ConfigError, match=other) as caught:
        make()

    assert caught.value.field == field


def test_settings_that_just_work_together_are_taken() -> None:
    """The limits are exact: what the error of one more names is taken."""
    RetentionPolicy(min_retention_days=30, archive_after_days=30, delete_after_days=30)
    valid(max_field_chars=65_536)
    valid(buffer_events=100, flush_mode=Batched(size=90))
    with pytest.raises(ConfigError, match="give at most") as caught:
        valid(buffer_bytes=65_536)
    fits = int(caught.value.reason.partition("give at most ")[2].partition(",")[0])
    valid(buffer_bytes=65_536, max_event_bytes=fits)
    with pytest.raises(ConfigError, match="max_event_bytes"):
        valid(buffer_bytes=65_536, max_event_bytes=fits + 1)


def test_what_is_allowed_fits_the_room_of_a_record() -> None:
    """The largest event that is allowed finds room in an empty buffer, its record's other members included."""
    assert RECORD_OVERHEAD <= RECORD_ROOM


# -- files ----------------------------------------------------------------------------------------------------

GOOD = 'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "/var/lib/audit"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a configuration file that isn't there yet."""
    return tmp_path / "audit.toml"


def test_a_relative_directory_counts_from_the_file(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is started elsewhere goes on with the same chain."""
    file.write_text('service_id = "a"\n[mode]\ntype = "local"\nbase_dir = "./audit"\n')
    monkeypatch.chdir(file.parent)
    here = AuditConfig.load("audit.toml")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    elsewhere = AuditConfig.load(file)

    assert here == elsewhere
    assert here.mode == Local(file.parent / "audit")


def test_an_absolute_directory_is_kept_as_it_is_written(file: Path) -> None:
    """As in code: it is not even normalised."""
    file.write_text("service_id = 'o'\n[mode]\ntype = 'local'\nbase_dir = '/srv/.'\n", encoding="utf-8")
    assert AuditConfig.load(file).mode == Local("/srv/.")


def test_overrides_win_over_the_file(file: Path) -> None:
    """What code says replaces what the file says, and is not moved to the file's directory."""
    file.write_text(GOOD + '[flush_mode]\ntype = "nonsense"\n')

    config = AuditConfig.load(file, mode=Local("./here"), flush_mode=Batched(size=5), instance="a")

    assert config.mode == Local("./here")
    assert config.flush_mode == Batched(size=5)
    assert config.instance == "a"
    assert config.service_id == "orders"


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        ('servic_id = "a"\n', "servic_id", "did you mean service_id?"),
        ('SERVICE_ID = "a"\n', "SERVICE_ID", "did you mean service_id?"),
        ("zzz = 1\n", "zzz", "there are mode, service_id"),
        ('base_dir = "a"\n', "base_dir", 'it belongs in the table [mode] with type = "local"'),
        (GOOD + "max_bytes = 1\n", "mode.max_bytes", "no such setting"),
        ("delete_after_days = 1\n", "delete_after_days", "it belongs in the table [retention]"),
        (GOOD + "base_dirs = 1\n", "mode.base_dirs", "did you mean base_dir?"),
        (GOOD + "[rotation]\nmaxbytes = 1\n", "rotation.maxbytes", "did you mean max_bytes?"),
        (GOOD + '[rotation]\ntype = "x"\n', "rotation.type", "no such setting"),
        (GOOD + '[flush_mode]\ntype = "batched"\nbatch_size = 1\n', "flush_mode.batch_size", "size"),
        (GOOD + '[flush_mode]\ntype = "immediate"\nsize = 1\n', "flush_mode.size", "there are max_delay"),
        (GOOD + '[flush_mode]\ntype = "batchd"\n', "flush_mode.type", "did you mean batched?"),
        (GOOD + "[flush_mode]\nsize = 1\n", "flush_mode.type", '"immediate", "batched" or "hybrid"'),
        (GOOD + "[flush_mode]\ntype = 3\n", "flush_mode.type", "3 is not allowed"),
        ('mode = "local"\n', "mode", 'a table [mode] with type = "local" or "disabled"'),
        ('service_id = "a"\n', "mode", "missing"),
        ('[mode]\ntype = "local"\n', "mode.base_dir", "missing"),
        ('[mode]\ntype = "local"\nbase_dir = "a"\n', "service_id", "missing"),
        ('[mode]\ntype = "local"\nbase_dir = ""\n', "mode.base_dir", "not empty"),
        (GOOD + "[rotation]\nmax_bytes = 1.5\n", "rotation.max_bytes", "1.5 is not allowed"),
        (GOOD + '[rotation]\nmax_bytes = "64 Mi"\n', "rotation.max_bytes", "'64 Mi' is not allowed"),
        (GOOD + '[rotation]\nmax_bytes = "-1MiB"\n', "rotation.max_bytes", "not allowed"),
        (GOOD + '[rotation]\nmax_bytes = "9999TiB"\n', "rotation.max_bytes", "not allowed"),
        (GOOD + '[rotation]\ndaily = "true"\n', "rotation.daily", "true or false"),
        ("drain_timeout = nan\n" + GOOD, "drain_timeout", "nan is not allowed"),
        ("drain_timeout = 1979-05-27\n" + GOOD, "drain_timeout", "not allowed"),
        ('buffer_events = "10000"\n' + GOOD, "buffer_events", "'10000' is not allowed"),
        ("rotation = [1, 2]\n" + GOOD, "rotation", "a table [rotation]"),
        (GOOD + "[retention]\ndelete_after_days = 9\n", "retention.delete_after_days", "2555"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file: Path, text: str, field: str, hint: str) -> None:
    """The error has the setting's dotted name, says what would be right, and which file to open."""
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        AuditConfig.load(file)

    assert caught.value.field == field
    assert hint in caught.value.reason
    assert str(file) in caught.value.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'service_id = "a"\nmode =\n\n', "line 2"),
        (b"mode =", "line 1"),
        (b'service_id = "a"\n\n# \xff\n', "line 3 is not UTF-8"),
        (b'a = "secret\n', "line 1"),
        (b"a = " + b"9" * 5000, "digits"),
        (b"a = " + b"[" * 50_000, "recursion"),
        (b"a = 1\na = 2\n", "not a TOML file"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_line(file: Path, content: bytes, reason: str) -> None:
    """A file that can't be parsed is an error with the file's path, never with its text."""
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=reason) as caught:
        AuditConfig.load(file)

    assert caught.value.field == str(file)
    assert "secret" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_file(file: Path) -> None:
    """Some editors put one in front of UTF-8."""
    file.write_bytes(b"\xef\xbb\xbfservice_id = 'orders'\n[mode]\ntype = 'local'\nbase_dir = 'audit'\n")
    assert AuditConfig.load(file).service_id == "orders"


@pytest.mark.parametrize("content", [b"# " + b"x\n# " * 100_000, b"a." * 20_000 + b"a = 1\n"], ids=["large", "dotted"])
def test_a_file_that_is_too_large_for_a_configuration_is_not_parsed(file: Path, content: bytes) -> None:
    """The error names the file and the bound."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="more than 262144 bytes, or 1000 dots in a line"):
        AuditConfig.load(file)


def test_a_file_that_is_not_there_is_named(file: Path, tmp_path: Path) -> None:
    """A missing file, a directory or no path at all is a ConfigError, as every wrong configuration is."""
    cases: list[tuple[Path | str, str]] = [(file, "No such file"), (tmp_path, "directory"), ("a\0b", "null byte")]
    for path, reason in cases:
        with pytest.raises(ConfigError, match=reason) as caught:
            AuditConfig.load(path)
        assert caught.value.field == str(path).replace("\0", r"\x00")


def test_an_error_shows_no_more_than_the_beginning_of_what_is_wrong(file: Path) -> None:
    """Neither a key nor a value floods the log that the error ends in, or puts control characters there."""
    for text in (f'"{"k" * 5000}" = 1\n', '"\\u001b\\u202e" = 1\n', f'service_id = "{"v" * 5000}"\n{GOOD[22:]}'):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            AuditConfig.load(file)
        message = str(caught.value).replace(str(file), "")
        assert len(message) < 400
        assert message.isprintable()


# As code sees them that no type checker looks at.
ANY_CONFIG: Any = AuditConfig
ANY_BATCHED: Any = Batched
ANY_RETENTION: Any = RetentionPolicy
ANY_LOCAL: Any = Local


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ANY_CONFIG(mode=Local("a"), servic_id="o"), "servic_id: no such setting; did you mean service_id?"),
        (lambda: ANY_CONFIG(service_id="o"), "mode: missing; it has no default"),
        (lambda: ANY_CONFIG(Local("a"), service_id="o"), "AuditConfig: takes its settings by name: mode, service_id"),
        (lambda: ANY_CONFIG(mode="./audit", service_id="o"), "did you mean Local('./audit')?"),
        (lambda: ANY_CONFIG(mode=Path("audit"), service_id="o"), "did you mean Local('audit')?"),
        (lambda: ANY_CONFIG(mode="disabled"), "did you mean Disabled()?"),
        (lambda: ANY_CONFIG(mode=Local("a"), service_id="o", flush_mode="Immediate()"), "did you mean Immediate()?"),
        (lambda: ANY_CONFIG(mode=Local("a"), service_id="o", flush_mode="batched"), "did you mean Batched()?"),
        (lambda: ANY_BATCHED(siez=3), "flush_mode.siez: no such setting; did you mean size?"),
        (lambda: ANY_BATCHED(3), "flush_mode: takes its settings by name: size, interval"),
        (
            lambda: ANY_RETENTION(deleteafter_days=3),
            "retention.deleteafter_days: no such setting; did you mean delete",
        ),
        (ANY_LOCAL, "mode.base_dir: missing"),
    ],
)
def test_a_mistake_in_code_is_answered_as_one_in_a_file(make: Callable[[], object], message: str) -> None:
    """A misspelt or missing keyword, a path for a mode, a text for a flush mode: the error says what to write."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_a_configuration_shows_what_was_set() -> None:
    """Its `repr` is the call that makes it, without the defaults; a flush mode's text is its name and members."""
    config = AuditConfig(mode=Disabled(), flush_mode=Batched(size=3))
    assert repr(config) == "AuditConfig(mode=Disabled(), flush_mode=Batched(size=3, interval=1.0))"
    assert eval(repr(config)) == config  # noqa: S307 - our own
    assert str(Immediate()) == "immediate"
    assert str(Immediate(max_delay=0.002)) == "immediate(max_delay=0.002)"
    assert str(Batched()) == "batched(size=100, interval=1.0)"
    assert str(Hybrid()) == "hybrid(batch_size=100, batch_interval=1.0, critical_immediate=true)"


def test_an_unknown_override_is_refused(file: Path) -> None:
    """A misspelt override doesn't pass in silence."""
    file.write_text(GOOD)
    load: Callable[..., AuditConfig] = AuditConfig.load

    with pytest.raises(ConfigError, match=r"did you mean flush_mode\?") as caught:
        load(file, flushmode=Immediate())

    assert caught.value.field == "flushmode"


def test_a_wrong_override_is_not_blamed_on_the_file(file: Path) -> None:
    """Where the value came from code, the error doesn't send its reader to the file."""
    file.write_text(GOOD)

    with pytest.raises(ConfigError, match="buffer_events") as caught:
        AuditConfig.load(file, buffer_events=0)

    assert str(file) not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("67108864", 2**26), ("64MiB", 2**26), ("64 MiB", 2**26), (" 64mib ", 2**26), ("65536KiB", 2**26),
        ("1GiB", 2**30), ("1TiB", 2**40), ("4096B", 4096), ("64MB", 64_000_000), ("64 kB", 64_000),
        ("1GB", 10**9), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(file: Path, text: str, size: int) -> None:
    """KiB and its kin are powers of 1024, kB and its kin powers of 1000, in files and variables alike."""
    file.write_text(f'low_disk_bytes = "{text}"\n{GOOD}')

    assert AuditConfig.load(file).low_disk_bytes == size
    assert AuditConfig.from_env(environ={**ENV, "AUDIT_LOW_DISK_BYTES": text}).low_disk_bytes == size


# -- the environment ------------------------------------------------------------------------------------------

ENV = {"AUDIT_BASE_DIR": "./audit", "AUDIT_SERVICE_ID": "orders"}


def test_two_variables_make_a_log() -> None:
    """A directory and a name are enough; other programs' variables don't matter."""
    config = AuditConfig.from_env(environ={**ENV, "PATH": "/bin", "AUDITOR": "x", "audit_mode": "x"})

    assert config == AuditConfig(mode=Local("./audit"), service_id="orders")


def test_the_process_s_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `environ`, os.environ is read, under any prefix."""
    monkeypatch.setenv("ORDERS_LOG_BASE_DIR", "/srv/audit")
    monkeypatch.setenv("ORDERS_LOG_SERVICE_ID", "orders")

    config = AuditConfig.from_env(prefix="ORDERS_LOG_")

    assert config == AuditConfig(mode=Local("/srv/audit"), service_id="orders")


def test_one_variable_switches_recording_off() -> None:
    """AUDIT_MODE=disabled wins over the directory that an image's environment already has."""
    assert AuditConfig.from_env(environ={**ENV, "AUDIT_MODE": "disabled"}).mode == Disabled()
    assert AuditConfig.from_env(environ={"AUDIT_MODE": "disabled"}) == AuditConfig(mode=Disabled())


def test_the_delay_of_immediate_is_a_variable_and_a_line_of_a_file(file: Path) -> None:
    """`AUDIT_FLUSH_MAX_DELAY` with the mode's own variable, or over a file that chooses the mode."""
    environ = {"AUDIT_FLUSH_MODE": "immediate", "AUDIT_FLUSH_MAX_DELAY": "0.002"}
    assert AuditConfig.from_env(environ={**ENV, **environ}).flush_mode == Immediate(max_delay=0.002)
    file.write_text(f'{GOOD}\n[flush_mode]\ntype = "immediate"\nmax_delay = 0.005\n')
    assert AuditConfig.load(file, environ={}).flush_mode == Immediate(max_delay=0.005)
    over = AuditConfig.load(file, env_prefix="AUDIT_", environ={"AUDIT_FLUSH_MAX_DELAY": "0.001"})
    assert over.flush_mode == Immediate(max_delay=0.001)


def test_an_empty_variable_is_not_set() -> None:
    """A variable that a compose file leaves empty means the default."""
    config = AuditConfig.from_env(environ={**ENV, "AUDIT_INSTANCE": "", "AUDIT_FLUSH_MODE": ""})

    assert config == AuditConfig.from_env(environ=ENV)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_switches_are_read(text: str, value: bool) -> None:
    """A switch is true, false, 1 or 0."""
    assert AuditConfig.from_env(environ={**ENV, "AUDIT_HANDLE_SIGNALS": text}).handle_signals is value


@pytest.mark.parametrize(
    ("environ", "field", "hint"),
    [
        ({"AUDIT_BASEDIR": "x"}, "AUDIT_BASEDIR", "did you mean AUDIT_BASE_DIR?"),
        ({"AUDIT_ROTATION_MAX_BYTE": "1"}, "AUDIT_ROTATION_MAX_BYTE", "did you mean AUDIT_ROTATION_MAX_BYTES?"),
        ({"AUDIT_MODE": "off"}, "mode.type", "AUDIT_MODE"),
        ({"AUDIT_MODE": "local", "AUDIT_BASE_DIR": ""}, "mode.base_dir", "AUDIT_BASE_DIR"),
        ({"AUDIT_BASE_DIR": ""}, "mode", "AUDIT_BASE_DIR"),
        ({"AUDIT_BASE_DIR": "~/a"}, "mode.base_dir", "AUDIT_BASE_DIR"),
        ({"AUDIT_SERVICE_ID": ""}, "service_id", "AUDIT_SERVICE_ID"),
        ({"AUDIT_FLUSH_SIZE": "5"}, "flush_mode.type", "AUDIT_FLUSH_MODE"),
        ({"AUDIT_FLUSH_MODE": "batch"}, "flush_mode.type", "did you mean batched?"),
        ({"AUDIT_FLUSH_MODE": "hybrid", "AUDIT_FLUSH_SIZE": "5"}, "flush_mode.size", "AUDIT_FLUSH_SIZE"),
        ({"AUDIT_FLUSH_MODE": "batched", "AUDIT_FLUSH_SIZE": "5.5"}, "flush_mode.size", "'5.5'"),
        ({"AUDIT_FLUSH_MODE": "batched", "AUDIT_FLUSH_INTERVAL": "inf"}, "flush_mode.interval", "inf"),
        ({"AUDIT_BUFFER_BYTES": "lots"}, "buffer_bytes", "AUDIT_BUFFER_BYTES"),
        ({"AUDIT_BUFFER_EVENTS": "10KiB"}, "buffer_events", "AUDIT_BUFFER_EVENTS"),
        ({"AUDIT_BUFFER_EVENTS": "9" * 5000}, "buffer_events", "AUDIT_BUFFER_EVENTS"),
        ({"AUDIT_BUFFER_EVENTS": "\udcff"}, "buffer_events", "AUDIT_BUFFER_EVENTS"),
        ({"AUDIT_SERVICE_ID": "\udcff"}, "service_id", "AUDIT_SERVICE_ID"),
        ({"AUDIT_FLUSH_CRITICAL_IMEDIATE": "1"}, "AUDIT_FLUSH_CRITICAL_IMEDIATE", "AUDIT_FLUSH_CRITICAL_IMMEDIATE?"),
        ({"AUDIT_SERVICE": "1"}, "AUDIT_SERVICE", "did you mean AUDIT_SERVICE_ID?"),
        (
            {"AUDIT_MIN_RETENTION_DAYS": "3650"},
            "AUDIT_MIN_RETENTION_DAYS",
            "did you mean AUDIT_RETENTION_MIN_RETENTION_DAYS?",
        ),
        ({"AUDIT_ROTATION_DAILY": "maybe"}, "rotation.daily", "true or false"),
        ({"AUDIT_DRAIN_TIMEOUT": "nan"}, "drain_timeout", "AUDIT_DRAIN_TIMEOUT"),
        ({"AUDIT_RETENTION_DELETE_AFTER_DAYS": "7"}, "retention.delete_after_days", "2555"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(environ: dict[str, str], field: str, hint: str) -> None:
    """The error has the setting's name and the variable's, and no other variable's value."""
    others = {"AUDIT_INSTANCE": "hush-hush", "PASSWORD": "hush-hush"}

    with pytest.raises(ConfigError) as caught:
        AuditConfig.from_env(environ={**ENV, **others, **environ})

    assert caught.value.field == field
    assert hint in caught.value.reason
    assert "hush-hush" not in str(caught.value)
    assert len(str(caught.value)) < 1700


@pytest.mark.parametrize("name", ["AUDIT_LOG_LEVEL", "AUDIT_URL", "AUDIT_SERVICE_HOST", "AUDIT_" + "X" * 5000])
def test_a_variable_of_another_program_is_ignored_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A container's environment has variables of many programs; a warning names it, and not what it holds."""
    config = AuditConfig.from_env(environ={**ENV, name: "hush-hush"})

    assert config == AuditConfig.from_env(environ=ENV)
    [warning] = caplog.messages
    assert name[:80] in warning
    assert "hush-hush" not in warning
    assert len(warning) < 200


def test_the_command_s_own_variables_are_no_settings(caplog: pytest.LogCaptureFixture) -> None:
    """A service and the command may share an environment; under another prefix they mean nothing."""
    own = dict.fromkeys(COMMAND_VARIABLES - ENV.keys(), "x")

    assert AuditConfig.from_env(environ={**ENV, **own}) == AuditConfig.from_env(environ=ENV)
    assert not caplog.messages


def test_an_empty_prefix_is_refused() -> None:
    """Nobody means the whole environment."""
    with pytest.raises(ConfigError, match="must not be empty") as caught:
        AuditConfig.from_env(prefix="", environ=ENV)

    assert caught.value.field == "prefix"


# -- a file and the environment -------------------------------------------------------------------------------


def test_variables_replace_single_settings_of_a_file(file: Path) -> None:
    """The rest is as the file has it; what code says wins over both."""
    file.write_text(
        'service_id = "orders"\nbuffer_events = 500\n[mode]\ntype = "local"\nbase_dir = "shipped"\n'
        '[flush_mode]\ntype = "batched"\nsize = 7\ninterval = 3.0\n[rotation]\ndaily = false\nmax_bytes = "2MiB"\n'
    )
    environ = {
        "AUDIT_SERVICE_ID": "billing",
        "AUDIT_BUFFER_EVENTS": "900",
        "AUDIT_FLUSH_INTERVAL": "0.5",
        "AUDIT_ROTATION_MAX_BYTES": "4MiB",
    }

    config = AuditConfig.load(file, env_prefix="AUDIT_", environ=environ, buffer_events=77)

    assert config == AuditConfig(
        mode=Local(file.parent / "shipped"),
        service_id="billing",
        buffer_events=77,
        flush_mode=Batched(size=7, interval=0.5),
        rotation=RotationPolicy(daily=False, max_bytes=4 * 1024**2),
    )
    assert AuditConfig.load(file, env_prefix="OTHER_", environ=environ) == AuditConfig.load(file)


@settings(deadline=None)  # a busy machine breaks no promise
@given(below=configs(), above=configs())
def test_a_whole_configuration_in_variables_replaces_that_of_a_file(below: AuditConfig, above: AuditConfig) -> None:
    """All that the variables say holds."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(to_toml(plain(below)).encode())
        file.flush()
        config = AuditConfig.load(file.name, env_prefix="AUDIT_", environ=to_variables(plain(above)))

    said = {place: text for place, text in to_variables(plain(above)).items() if text}
    assert said.items() <= to_variables(plain(config)).items()


def test_a_variable_that_chooses_another_kind_drops_the_file_s_members(file: Path) -> None:
    """Members of the kind that the file chose would be unknown to the other."""
    file.write_text(f'{GOOD}\n[flush_mode]\ntype = "batched"\nsize = 7\n')

    hybrid = AuditConfig.load(file, env_prefix="AUDIT_", environ={"AUDIT_FLUSH_MODE": "hybrid"})
    disabled = AuditConfig.load(file, env_prefix="AUDIT_", environ={"AUDIT_MODE": "disabled"})

    assert hybrid.flush_mode == Hybrid()
    assert disabled.mode == Disabled()


def test_a_directory_in_the_environment_does_not_switch_on_what_the_file_switched_off(file: Path) -> None:
    """Only AUDIT_MODE does."""
    file.write_text('service_id = "orders"\n[mode]\ntype = "disabled"\n')
    place = {"AUDIT_BASE_DIR": "/srv/audit"}

    assert AuditConfig.load(file, env_prefix="AUDIT_", environ=place).mode == Disabled()
    switched_on = AuditConfig.load(file, env_prefix="AUDIT_", environ={**place, "AUDIT_MODE": "local"})
    assert switched_on.mode == Local("/srv/audit")


def test_a_relative_path_counts_from_the_file_wherever_it_is_said(file: Path) -> None:
    """A service that is started from elsewhere goes on with the same chain."""
    file.write_text(GOOD)

    config = AuditConfig.load(file, env_prefix="AUDIT_", environ={"AUDIT_BASE_DIR": "elsewhere"})

    assert config.mode == Local(file.parent / "elsewhere")


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({"AUDIT_BUFFER_EVENTS": "none"}, "(variable AUDIT_BUFFER_EVENTS)"),
        ({"AUDIT_FLUSH_MODE": "hybrid", "AUDIT_FLUSH_SIZE": "5"}, "(variable AUDIT_FLUSH_SIZE)"),
        (
            {"AUDIT_RETENTION_MIN_RETENTION_DAYS": "9999"},
            "audit.toml)",
        ),  # the file's delete_after_days is what is wrong
    ],
)
def test_an_error_names_the_source_of_the_value(file: Path, environ: dict[str, str], source: str) -> None:
    """The variable if it is one, otherwise the file."""
    file.write_text(f"{GOOD}\n[retention]\ndelete_after_days = 3000\n")

    with pytest.raises(ConfigError) as caught:
        AuditConfig.load(file, env_prefix="AUDIT_", environ=environ)

    assert caught.value.reason.endswith(source)


# -- presets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_needs_only_a_place_and_a_name(name: PresetName) -> None:
    """Every preset is complete, and what code says wins over it."""
    config = AuditConfig.preset(name, mode=Local("./audit"), service_id="orders", privacy=None)
    ours = AuditConfig.preset(
        name,
        mode=Disabled(),
        privacy=None,
        flush_mode=Hybrid(batch_size=7),
        rotation=RotationPolicy(daily=False),
        retention=RetentionPolicy(archive_after_days=1),
        buffer_events=50_000,
    )

    assert (config.mode, config.service_id) == (Local("./audit"), "orders")
    assert ours.mode == Disabled()
    assert ours.flush_mode == Hybrid(batch_size=7)
    assert ours.rotation == RotationPolicy(daily=False)
    assert ours.retention == RetentionPolicy(archive_after_days=1)
    assert ours.buffer_events == 50_000


def test_presets_keep_what_their_standards_ask_for() -> None:
    """Six years for HIPAA, a year with three months at hand for PCI DSS, six months for AI, an end for GDPR."""
    kept = {name: AuditConfig.preset(name, mode=Disabled(), privacy=None).retention for name in PRESETS}

    assert kept["hipaa"].min_retention_days >= 6 * 365 + 2
    assert kept["pci_dss"].min_retention_days >= 366
    assert kept["pci_dss"].archive_after_days >= 92
    assert kept["gdpr"].delete_after_days <= 366
    assert kept["soc2"].min_retention_days >= 365
    assert kept["iso27001"].min_retention_days >= 365
    assert kept["eu_ai_act"].min_retention_days >= 184


@pytest.mark.parametrize("name", ["gdpr", "soc2", "iso27001", "hipaa", "pci_dss", "eu_ai_act"])
def test_a_preset_of_a_standard_loses_nothing_acknowledged(name: PresetName) -> None:
    """Where a standard is behind it, a preset syncs at once."""
    assert AuditConfig.preset(name, mode=Disabled(), privacy=None).flush_mode == Immediate()


def test_an_unknown_preset_is_refused() -> None:
    """A misspelt preset is not a default configuration."""
    preset: Callable[..., AuditConfig] = AuditConfig.preset

    with pytest.raises(ConfigError, match=r"did you mean hipaa\?"):
        preset("hippa", mode=Disabled())
    with pytest.raises(ConfigError, match="there are gdpr, soc2"):
        preset("zzz", mode=Disabled())
    with pytest.raises(ConfigError, match=r"did you mean mode\?"):
        preset("soc2", mod=Disabled())
    with pytest.raises(ConfigError, match="missing") as caught:
        preset("soc2", service_id="orders")
    assert caught.value.field == "mode"


def test_the_preset_for_personal_data_wants_to_know_what_is_sealed() -> None:
    """Neither sealing nor its absence is what somebody gets without having thought of it."""
    with pytest.raises(ConfigError, match="privacy=None") as caught:
        AuditConfig.preset("gdpr", mode=Disabled())
    assert caught.value.field == "privacy"


def test_every_setting_can_be_overridden() -> None:
    """The names that `load` and `preset` declare are the settings, all of them."""
    assert set(get_type_hints(Overrides)) == set(AuditConfig.__struct_fields__)


@pytest.mark.parametrize("name", ["gdpr", "soc2", "iso27001", "hipaa", "pci_dss", "eu_ai_act", "throughput"])
def test_an_example_file_is_its_preset_in_full(name: PresetName) -> None:
    """Each example file equals the preset of its name, and leaves no setting to the default but the instance."""
    path = EXAMPLES / f"{name}.toml"
    config = AuditConfig.load(path)
    text = path.read_text()

    assert config == AuditConfig.preset(name, mode=Local("/var/lib/audit"), service_id="orders", privacy=None)
    for setting in plain(config):
        assert f"\n{setting} = " in text or f"\n[{setting}]" in text
