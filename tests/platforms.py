"""Made-up destinations for tests of what comes before sending: declarations only, no flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from pydantic import SecretStr, field_validator

from dbt_segments.destinations.base import Accepts, ConnectionSettings, Destination
from dbt_segments.errors import ConfigError
from dbt_segments.identifiers.rules import Rule
from dbt_segments.spelling import nearest


def _takes(**fields: str) -> dict[str, Accepts]:
    return {name: Accepts(field, cast(Rule, None)) for name, field in fields.items()}


class AcmeSettings(ConnectionSettings):
    account_id: str
    access_token: SecretStr
    app_secret: SecretStr | None = None
    region: str = "eu"

    @field_validator("region")
    @classmethod
    def _check_region(cls, value: str) -> str:
        if value != "eu":
            raise ValueError(f"there is no region {value}")  # careless on purpose: it repeats the value
        return value


class AcmeAds(Destination):
    """Takes much, matches by e-mail, phone, ids, or by name and postcode together."""

    type = "acme_ads"
    aliases: ClassVar[tuple[str, ...]] = ("acme",)
    one_click = True
    settings_model = AcmeSettings
    identifiers = _takes(
        email="EMAIL",
        phone="PHONE",
        first_name="FN",
        last_name="LN",
        fi="FI",
        postal_code="ZIP",
        doby="DOBY",
        dobm="DOBM",
        dobd="DOBD",
        maid="MADID",
        external_id="EXTERN_ID",
    )
    units: ClassVar[Sequence[tuple[str, ...]]] = (
        ("email",),
        ("phone",),
        ("maid",),
        ("external_id",),
        ("first_name", "last_name", "postal_code"),
    )

    def account(self) -> str:
        return str(self.settings.account_id)


class PhoneAds(AcmeAds):
    """Tells the two systems' mobile ids apart."""

    type = "phone_ads"
    aliases = ()
    identifiers = _takes(aaid="AAID", idfa="IDFA", email="EMAIL_SHA256")
    units = (("email",), ("idfa",), ("aaid",))


class Crm(AcmeAds):
    """No ad platform."""

    type = "crm"
    aliases = ()
    one_click = False


_ALL: dict[str, type[Destination]] = {kind.type: kind for kind in (AcmeAds, PhoneAds, Crm)}


def get(name: str) -> type[Destination]:
    """As `destinations.registry.get`."""
    known: dict[str, Any] = {**_ALL, **{alias: kind for kind in _ALL.values() for alias in kind.aliases}}
    if name not in known:
        raise ConfigError(f"`{name}` is no destination type", hint=nearest(name, known))
    found: type[Destination] = known[name]
    return found


def names() -> list[str]:
    """As `destinations.registry.names`."""
    return list(_ALL)
