"""What a requester may send, as hypothesis strategies."""

from datetime import date
from typing import Any

from hypothesis import strategies as st

from session_contracts import CreateSessionPayload, CreateSessionRequest

CODES = st.from_regex(r"[A-Za-z0-9]{1,64}", fullmatch=True)
DAYS = st.dates(min_value=date(2000, 1, 1), max_value=date(2099, 12, 31)).map(lambda day: f"{day:%y%m%d}")
TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
USER_IDS = st.text(TEXT, min_size=3, max_size=320).map(lambda text: text.replace("@", "-"))
TITLES = st.text(TEXT, min_size=1, max_size=200)
TEXTS = st.lists(st.text(TEXT, max_size=256), max_size=5)
CASEFILE_IDS = st.builds("cf_{}_{}".format, DAYS, CODES)
SESSION_IDS = st.builds("{}_{}_{}".format, st.sampled_from(["ts", "cs"]), DAYS, CODES)
TIMESTAMPS = st.datetimes(timezones=st.none() | st.timezones()).map(lambda when: when.isoformat())

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(TEXT, max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(TEXT, max_size=8), inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.dictionaries(st.text(TEXT, max_size=20), VALUES, max_size=5)

PAYLOADS = st.builds(CreateSessionPayload, casefile_id=st.none() | CASEFILE_IDS, title=st.none() | TITLES)
REQUESTS = st.builds(
    CreateSessionRequest,
    request_id=st.uuids(),
    session_id=st.none() | SESSION_IDS,
    user_id=USER_IDS,
    payload=PAYLOADS,
    timestamp=TIMESTAMPS,
    metadata=OBJECTS,
    context_requirements=TEXTS,
    hooks=TEXTS,
    policy_hints=OBJECTS,
    route_directives=OBJECTS,
)
