"""LinkedIn company lists: DMP segments of companies, for entities of kind company.

Source: LinkedIn Marketing API 202608, "Create and manage segment companies", read 2026-11; field lengths from
connectors. Nothing of a company is hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dbt_segments.destinations.base import Accepts, Limits, Op
from dbt_segments.destinations.linkedin import ACTIONS, LinkedIn
from dbt_segments.identifiers import rules


class LinkedInCompanies(LinkedIn):
    """Streaming segments of one ad account, type COMPANY. A classic sync: `syncs`, with `mode: mirror`."""

    type = "linkedin_companies"
    title = "LinkedIn company lists"
    identifiers: ClassVar = {
        "company_name": Accepts("companyName", rules.name_as_written(longest=200)),
        "website_domain": Accepts("companyWebsiteDomain", rules.domain()),
        "email_domain": Accepts("companyEmailDomain", rules.domain()),
        "organization": Accepts("organizationUrn", rules.linkedin_organization()),
        "company_page": Accepts("companyPageUrl", rules.name_as_written(longest=100)),
        "city": Accepts("city", rules.name_as_written(longest=50)),
        "region": Accepts("state", rules.name_as_written(longest=50)),
        "postal_code": Accepts("postalCode", rules.name_as_written(longest=20)),
        "country": Accepts("country", rules.country(case="upper", hashed=False)),
    }
    units = (("company_name",), ("website_domain",), ("email_domain",), ("organization",), ("company_page",))
    on_request: ClassVar[frozenset[str]] = frozenset()
    limits = Limits(members=5_000, requests_per_s=5, concurrency=2)  # 300 a minute
    one_click = False
    channel = None
    kind = "COMPANY"
    edge = "companies"

    def write(self, op: Op, cells: Mapping[str, str]) -> str:
        """`{"action": .., "companyName": .., ..}`, no absent ones."""
        pairs = (f"""'"{self.identifiers[name].field}":' || {cell}""" for name, cell in cells.items())
        return f"""concat('{{"action":"{ACTIONS[op]}",', concat_ws(',', {", ".join(pairs)}), '}}')"""
