"""The bodies of audienceMembers:ingest, :remove and :removeAll, read strictly.

Source: Google, Data Manager API v1, REST reference and "Limits", read 2026-11. Stricter than the platform where a
careful sender loses nothing: digests are lower-case hexadecimal, one destination a request.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbt_segments.sandbox.google_ads_errors import Violation, error, invalid, refuse, unknown
from dbt_segments.sandbox.people import Codec, Key
from dbt_segments.sandbox.platform import Refusal, Request

MAX_MEMBERS = 10_000
MAX_IDENTIFIERS = 10
# An address matches as a whole; its value is the four parts joined by "|".
CODEC = Codec({"EMAIL": True, "PHONE": True, "ADDRESS": False, "MOBILE_ID": False, "USER_ID": False})
_KINDS = {"compositeData": "CONTACT_ID", "userData": "CONTACT_ID", "mobileData": "MOBILE_ID", "userIdData": "USER_ID"}
_ADDRESS = ("givenName", "familyName", "regionCode", "postalCode")
_CONSENT = ("CONSENT_GRANTED", "CONSENT_DENIED", "CONSENT_STATUS_UNSPECIFIED")
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").fullmatch
_HEX = re.compile("[0-9a-f]*").fullmatch
_MOBILE = re.compile("(?!0{8}-0{4}-0{4}-0{4}-0{12})[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch


@dataclass
class Upload:
    """A request that can be done.

    kind    what its members are: CONTACT_ID, MOBILE_ID or USER_ID
    rows    the match keys of each member that will be taken
    errors  reason -> members that processing will not take
    total   members that arrived
    """

    list_id: str
    kind: str
    rows: list[list[Key]] = field(default_factory=list, repr=False)
    errors: Counter[str] = field(default_factory=Counter)
    total: int = 0


@dataclass
class Reader:
    """Reads one request.

    account, manager  whom the call is for; the manager is empty where access is direct
    strict_consent    members without both consents are not processed, as those of the European Economic Area
    refuse            digest -> reason: members with such a value are refused, whatever it is
    faults            reasons for which members were refused that a careful sender would not have sent
    """

    account: str
    manager: str
    strict_consent: bool
    refuse: Mapping[str, str]
    faults: set[str] = field(default_factory=set)
    _violations: list[Violation] = field(default_factory=list)

    def read(self, request: Request) -> Upload:
        """Raises a Refusal that names every malformed member, or the first other mistake."""
        adds = request.op == "add"
        body = request.fields()
        known = ("destinations", "audienceMembers", "encoding", "validateOnly")
        _only(body, (*known, "consent", "termsOfService") if adds else known, "request")
        upload = Upload(self._destination(body.get("destinations")), "")
        if body.get("encoding") != "HEX":
            raise invalid("encoding", "REQUIRED_FIELD_MISSING")
        members = body.get("audienceMembers")
        if not isinstance(members, list) or not members:
            raise invalid("audience_members", "REQUIRED_FIELD_MISSING")
        if len(members) > MAX_MEMBERS:
            raise invalid("audience_members", "TOO_MANY_AUDIENCE_MEMBERS")
        upload.total = len(members)
        general = _consent(body.get("consent"), "consent")
        for index, member in enumerate(members):
            self._member(upload, index, member, general, request.skip, adds=adds)
        if self._violations:
            message = "There was a problem with the request."
            raise Refusal(error("INVALID_ARGUMENT", message, violations=self._violations))
        if adds and upload.kind != "USER_ID":
            terms = body.get("termsOfService")
            if terms != {"customerMatchTermsOfServiceStatus": "ACCEPTED"}:
                raise refuse("INVALID_ARGUMENT", "terms of service", "TERMS_AND_CONDITIONS_NOT_SIGNED")
        return upload

    def read_sweep(self, request: Request, now: float) -> tuple[str, float]:
        """The list of a removeAll and its moment, in seconds since 1970."""
        body = request.fields()
        _only(body, ("destinations", "removeAsOfTime", "validateOnly"), "request")
        list_id = self._destination(body.get("destinations"))
        said = body.get("removeAsOfTime")
        if said is None:
            return list_id, now
        if not isinstance(said, str) or not _TIME(said):
            raise invalid("remove_as_of_time", "INVALID_ARGUMENT")
        moment = datetime.fromisoformat(said.replace("Z", "+00:00")).timestamp()
        if moment > now:
            self.faults.add("INVALID_REMOVE_AS_OF_TIME")
            raise invalid("remove_as_of_time", "INVALID_REMOVE_AS_OF_TIME")
        return list_id, moment

    def _destination(self, destinations: Any) -> str:
        if not isinstance(destinations, list) or len(destinations) != 1 or not isinstance(destinations[0], dict):
            raise invalid("destinations", "REQUIRED_FIELD_MISSING")
        one = destinations[0]
        _only(one, ("reference", "operatingAccount", "loginAccount", "productDestinationId"), "destinations[0]")
        if self._account_of(one.get("operatingAccount")) != self.account:
            raise invalid("destinations[0].operating_account", "INVALID_DESTINATION")
        login = self._account_of(one["loginAccount"]) if "loginAccount" in one else ""
        if login != self.manager:
            raise refuse("PERMISSION_DENIED", "The caller does not have permission")
        return str(one.get("productDestinationId", ""))

    def _account_of(self, account: Any) -> str:
        if not isinstance(account, dict) or account.get("accountType") != "GOOGLE_ADS":
            raise invalid("destinations[0].operating_account.account_type", "REQUIRED_FIELD_MISSING")
        _only(account, ("accountType", "accountId"), "destinations[0].operating_account")
        found = account.get("accountId")
        if not isinstance(found, str) or not re.fullmatch("[0-9]+", found):
            raise invalid("destinations[0].operating_account.account_id", "INVALID_DESTINATION")
        return found

    # -- members ----------------------------------------------------------------------------------------------

    def _member(
        self, upload: Upload, index: int, member: Any, general: Mapping[str, str], skip: int, *, adds: bool
    ) -> None:
        where = f"audience_members.audience_members[{index}]"
        _only(member, (*_KINDS, "consent") if adds else tuple(_KINDS), where)
        kinds = [name for name in member if name in _KINDS]
        if len(kinds) != 1:
            raise invalid(where, "MULTIPLE_DATA_TYPES_NOT_ALLOWED" if kinds else "INVALID_AUDIENCE_MEMBER")
        kind = _KINDS[kinds[0]]
        if upload.kind not in ("", kind):
            raise invalid(where, "MULTIPLE_DATA_TYPES_NOT_ALLOWED")
        upload.kind = kind
        keys = self._keys(kinds[0], member[kinds[0]], where)
        if not keys:
            return
        consent = _consent(member["consent"], f"{where}.consent") if "consent" in member else general
        wrong = self._not_processed(consent) if adds else ""
        if index < skip:
            wrong = "INVALID_FORMAT"
        if wrong:
            upload.errors[f"PROCESSING_ERROR_REASON_{wrong}"] += 1
        else:
            upload.rows.append(keys)

    def _not_processed(self, consent: Mapping[str, str]) -> str:
        if "CONSENT_DENIED" in consent.values():
            return "DENIED_CONSENT"
        granted = sum(said == "CONSENT_GRANTED" for said in consent.values())
        return "NO_CONSENT" if self.strict_consent and granted < 2 else ""

    def _keys(self, kind: str, data: Any, where: str) -> list[Key]:
        """The member's match keys; nothing where it is refused."""
        if kind == "mobileData":
            _only(data, ("mobileIds",), f"{where}.mobile_data")
            return self._clear("MOBILE_ID", data.get("mobileIds"), f"{where}.mobile_data.mobile_ids")
        if kind == "userIdData":
            _only(data, ("userId",), f"{where}.user_id_data")
            return self._clear("USER_ID", [data.get("userId")], f"{where}.user_id_data.user_id")
        if kind == "compositeData":
            _only(data, ("userData",), f"{where}.composite_data")
            data, where = data.get("userData"), f"{where}.composite_data"
        where = f"{where}.user_data"
        _only(data, ("userIdentifiers",), where)
        identifiers = data.get("userIdentifiers")
        if not isinstance(identifiers, list) or not identifiers:
            self._blame(f"{where}.user_identifiers", "NO_IDENTIFIERS_PROVIDED")
            return []
        if len(identifiers) > MAX_IDENTIFIERS:
            raise invalid(f"{where}.user_identifiers", "TOO_MANY_USER_IDENTIFIERS")
        before = len(self._violations)
        keys = [self._identifier(one, f"{where}.user_identifiers[{n}]") for n, one in enumerate(identifiers)]
        return [key for key in keys if key is not None] if len(self._violations) == before else []

    def _clear(self, name: str, values: Any, where: str) -> list[Key]:
        shape = _MOBILE if name == "MOBILE_ID" else re.compile(r"\S(?:.*\S)?", re.DOTALL).fullmatch
        if not isinstance(values, list) or not values or len(values) > MAX_IDENTIFIERS:
            self._blame(where, "REQUIRED_FIELD_MISSING")
            return []
        if not all(isinstance(value, str) and shape(value) for value in values):
            self._blame(where, "INVALID_MOBILE_ID_FORMAT" if name == "MOBILE_ID" else "INVALID_FORMAT")
            return []
        return [CODEC.encode(name, value) for value in values]

    def _identifier(self, one: Any, where: str) -> Key | None:
        if not isinstance(one, dict) or len(one) != 1:
            raise invalid(where, "INVALID_AUDIENCE_MEMBER")
        ((name, value),) = one.items()
        if name == "address":
            return self._address(value, f"{where}.address")
        if name not in ("emailAddress", "phoneNumber"):
            raise unknown(f"{where}.{name}")
        code = "EMAIL" if name == "emailAddress" else "PHONE"
        return CODEC.encode(code, value) if self._is_digest(value, where) else None

    def _address(self, address: Any, where: str) -> Key | None:
        _only(address, _ADDRESS, where)
        if any(not isinstance(address.get(name), str) or not address[name].strip() for name in _ADDRESS):
            self._blame(where, "REQUIRED_FIELD_MISSING")
            return None
        if not re.fullmatch("[A-Z]{2}", address["regionCode"]):
            self._blame(f"{where}.region_code", "INVALID_REGION_CODE")
            return None
        if address["postalCode"] != address["postalCode"].strip():
            self._blame(f"{where}.postal_code", "INVALID_POSTAL_CODE")
            return None
        if not all(self._is_digest(address[name], where) for name in _ADDRESS[:2]):
            return None
        return CODEC.encode("ADDRESS", "|".join(address[name] for name in _ADDRESS))

    def _is_digest(self, value: Any, where: str) -> bool:
        if isinstance(value, str) and value in self.refuse:
            self._violations.append((where, self.refuse[value]))
            return False
        if isinstance(value, str) and _DIGEST(value):
            return True
        plain = isinstance(value, str) and _HEX(value)
        self._blame(where, "INVALID_SHA256_FORMAT" if plain else "INVALID_HEX_ENCODING")
        return False

    def _blame(self, where: str, reason: str) -> None:
        self.faults.add(reason)
        self._violations.append((where, reason))


def _consent(consent: Any, where: str) -> Mapping[str, str]:
    if consent is None:
        return {}
    _only(consent, ("adUserData", "adPersonalization"), where)
    if not all(said in _CONSENT for said in consent.values()):
        raise invalid(where, "INVALID_ENUM_VALUE")
    return {str(name): str(said) for name, said in consent.items()}


def _only(value: Any, names: Collection[str], where: str) -> None:
    """An object with known names only."""
    if not isinstance(value, dict):
        raise invalid(where, "INVALID_ARGUMENT")
    for name in value:
        if name not in names:
            raise unknown(f"{where}.{name}")
