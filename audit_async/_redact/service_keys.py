r"""Keys and tokens of services, known by the prefix that their service gives them.

The forms are those that the services document, and those in the rules of gitleaks
(https://github.com/gitleaks/gitleaks, MIT), the most complete public list. Its rules can't be used as they are: they
are written for RE2, whose time is linear for any pattern; in Python's `re` their leading `[\w.-]{0,50}?` is tried again
at each character. detect-secrets is made for the files of a repository, and finds lines, not places.

All prefixes are one pattern, and what follows a prefix is a bounded or possessive run, so each character is read once.
"""

from __future__ import annotations

import re
from typing import Final

from audit_async._redact.prefix_tree import tree_pattern

__all__ = ["redact_service_keys"]

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# What the key is called, its prefixes, and what follows them.
_RULES: Final = (
    ("aws_key", "AKIA ASIA ABIA ACCA", r"[A-Z0-9]{16}"),
    ("aws_key", "A3T", r"[A-Z0-9]{17}"),
    ("aws_key", "ABSK", r"[A-Za-z0-9+/]{100,}+={0,2}"),
    ("aws_key", "bedrock-api-key-", r"[A-Za-z0-9+/=]{20,}+"),
    ("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9_]{30,}+(?:\.[A-Za-z0-9_-]{20,}+)*+"),
    ("github_token", "github_pat_", r"[A-Za-z0-9_]{22,}+"),
    (
        "gitlab_token",
        "glpat- gldt- glrt- glrtr- glcbt- glptt- glft- glsoat- glagent- glimt- gloas- glffct- glwt- GR1348941",
        r"[A-Za-z0-9_.-]{20,}+",
    ),
    ("slack_token", "xox", r"[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}+"),
    ("slack_token", "xapp- xwfp-", r"[A-Za-z0-9-]{10,}+"),
    ("google_key", "AIza", r"[A-Za-z0-9_-]{35,}+"),
    ("google_key", "GOCSPX- ya29.", r"[A-Za-z0-9_-]{20,}+"),
    ("google_key", "1//0", r"[A-Za-z0-9_-]{30,}+"),
    ("stripe_key", "sk_live_ sk_test_ sk_prod_ sk_org_ rk_live_ rk_test_ rk_prod_", r"[A-Za-z0-9_]{16,}+"),
    ("stripe_key", "whsec_", r"[A-Za-z0-9+/=]{24,}+"),
    ("npm_token", "npm_", r"[A-Za-z0-9]{36,}+"),
    ("pypi_token", "pypi-", r"[A-Za-z0-9_-]{50,}+"),
    ("rubygems_key", "rubygems_", r"[0-9a-f]{48}"),
    ("crates_token", "cio", r"[A-Za-z0-9]{32}"),
    ("nuget_key", "oy2", r"[a-z0-9]{43}"),
    ("docker_token", "dckr_pat_ dckr_oat_", r"[A-Za-z0-9_-]{20,}+"),
    ("sendgrid_key", "SG.", r"[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+"),
    ("mailgun_key", "key- pubkey-", r"[0-9a-f]{32}"),
    ("brevo_key", "xkeysib- xsmtpsib-", r"[0-9a-f]{64}-[A-Za-z0-9]{16}"),
    ("resend_key", "re_", r"[A-Za-z0-9]{6,12}_[A-Za-z0-9]{20,}+"),
    (
        "model_key",
        "sk-proj- sk-svcacct- sk-admin- sk-None- sk-service- sk-or-v1- sk-lf- sk-litellm- nvapi- tgp_v1_ voyage-",
        r"[A-Za-z0-9_-]{20,}+",
    ),
    ("model_key", "sk-ant-", r"[a-z0-9]{1,10}-[A-Za-z0-9_-]{20,}+"),
    ("model_key", "sk- sess- gsk_ xai- pplx- r8_ csk-", r"[A-Za-z0-9]{30,}+"),
    ("model_key", "lsv2_pt_ lsv2_sk_", r"[0-9a-f]{32}_[0-9a-f]{10}"),
    ("model_key", "fw_", r"[A-Za-z0-9]{22,}+"),
    ("model_key", "pcsk_", r"[A-Za-z0-9_]{50,}+"),
    ("huggingface_token", "hf_ api_org_", r"[A-Za-z0-9]{30,}+"),
    ("twilio_key", "SK", r"[0-9a-f]{32}"),
    ("digitalocean_token", "doo_v1_ dop_v1_ dor_v1_", r"[0-9a-f]{64}"),
    ("vault_token", "hvs. hvb. hvr.", r"[A-Za-z0-9_-]{20,}+"),
    ("vault_token", "s.", r"(?=[A-Za-z]{0,23}[0-9])[A-Za-z0-9]{24}"),
    ("shopify_token", "shpat_ shpca_ shppa_ shpss_ shptka_", r"[0-9a-fA-F]{32}"),
    ("age_key", "AGE-SECRET-KEY-1", r"[A-Z0-9]{58}"),
    ("discord_token", "M N O", r"[A-Za-z0-9_-]{23,27}+\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}+"),
    ("discord_token", "mfa.", r"[A-Za-z0-9_-]{80,}+"),
    ("linear_key", "lin_api_ lin_oauth_ lin_wh_", r"[A-Za-z0-9]{32,}+"),
    ("notion_token", "ntn_", r"[A-Za-z0-9]{40,}+"),
    ("notion_token", "secret_", r"[A-Za-z0-9]{43}"),
    ("atlassian_token", "ATATT3 ATCTT3 ATBB", r"[A-Za-z0-9_=-]{24,}+"),
    ("square_token", "sq0atp- sq0csp- sq0idp-", r"[A-Za-z0-9_-]{22,}+"),
    ("square_token", "EAAA", r"[A-Za-z0-9_-]{56,}+"),
    ("facebook_token", "EAA", r"[A-Za-z][A-Za-z0-9]{60,}+"),
    ("paypal_token", "access_token$production$ access_token$sandbox$", r"[0-9a-z]{16}\$[0-9a-f]{32}"),
    ("plaid_token", "access-sandbox- access-development- access-production-", _UUID),
    ("grafana_token", "glc_", r"[A-Za-z0-9+/]{32,}+={0,3}"),
    ("grafana_token", "glsa_", r"[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}"),
    ("newrelic_key", "NRAK- NRJS- NRII- NRAL- NRRA-", r"[A-Za-z0-9-]{19,}+"),
    ("sentry_token", "sntrys_ sntryu_", r"[A-Za-z0-9+/=_]{40,}+"),
    ("dynatrace_token", "dt0", r"[a-z][0-9]{2}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{64}"),
    ("databricks_token", "dapi dose dkea", r"[0-9a-f]{32}(?:-[0-9])?"),
    ("planetscale_token", "pscale_tkn_ pscale_oauth_ pscale_pw_", r"[A-Za-z0-9_=.-]{32,}+"),
    ("supabase_key", "sbp_", r"[0-9a-f]{40}"),
    ("supabase_key", "sb_secret_", r"[A-Za-z0-9_-]{20,}+"),
    ("netlify_token", "nfp_ nfc_ nfu_ nfo_ nfb_", r"[A-Za-z0-9]{36,}+"),
    ("vercel_token", "vcp_ vck_ vca_ vci_ vcr_", r"[A-Za-z0-9]{24,}+"),
    ("flyio_token", "fo1_", r"[A-Za-z0-9_-]{43}"),
    ("flyio_token", "fm1a_ fm1r_ fm2_", r"[A-Za-z0-9+/]{60,}+={0,3}"),
    ("heroku_key", "HRKU-", r"[A-Za-z0-9_-]{36,}+"),
    ("doppler_token", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"[A-Za-z0-9._-]{40,}+"),
    ("pulumi_token", "pul-", r"[0-9a-f]{40}"),
    ("prefect_key", "pnu_ pnb_", r"[A-Za-z0-9]{36}"),
    ("tailscale_key", "tskey-", r"[a-z]{3,12}-[A-Za-z0-9]{6,}+(?:-[A-Za-z0-9]{10,}+)?"),
    ("cloudflare_key", "v1.0-", r"[0-9a-f]{24}-[0-9a-f]{146}"),
    ("postman_key", "PMAK-", r"[0-9a-f]{24}-[0-9a-f]{34}"),
    ("figma_token", "figd_ figo_ figu_", r"[A-Za-z0-9_-]{36,}+"),
    ("dropbox_token", "sl.u. sl.", r"[A-Za-z0-9_-]{130,}+"),
    ("hubspot_token", "pat-na pat-eu pat-ap", rf"[0-9]-{_UUID}"),
    ("airtable_token", "pat", r"[A-Za-z0-9]{14}\.[0-9a-f]{64}"),
    ("buildkite_token", "bkua_ bkct_ bkat_", r"[A-Za-z0-9]{30,}+"),
    ("circleci_token", "CCIPAT_ CCIPRJ_", r"[A-Za-z0-9]{20,24}_[0-9a-f]{40}"),
    ("sourcegraph_token", "sgp_", r"(?:[0-9a-f]{16}_|local_)?[0-9a-f]{40}"),
    ("onepassword_key", "A3-", r"[A-Z0-9]{6}-[A-Z0-9]{6}-?[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5}"),
    ("onepassword_key", "ops_eyJ", r"[A-Za-z0-9+/_-]{100,}+={0,3}"),
    ("openshift_token", "sha256~", r"[A-Za-z0-9_-]{43}"),
    ("octopus_key", "API-", r"[A-Z0-9]{26,}+"),
    ("jfrog_key", "AKCp", r"[A-Za-z0-9]{60,}+"),
    ("jfrog_key", "cmVmd", r"[A-Za-z0-9]{59}"),
    ("alibaba_key", "LTAI", r"[A-Za-z0-9]{16,24}+"),
    ("tencent_key", "AKID", r"[A-Za-z0-9]{32}"),
    ("adobe_secret", "p8e-", r"[A-Za-z0-9_-]{32}"),
    ("easypost_key", "EZAK EZTK", r"[A-Za-z0-9]{54}"),
    ("shippo_token", "shippo_live_ shippo_test_", r"[0-9a-fA-F]{40}"),
    ("flutterwave_key", "FLWSECK- FLWSECK_TEST-", r"[A-Za-z0-9]{12,}+(?:-X)?"),
    ("duffel_token", "duffel_test_ duffel_live_", r"[A-Za-z0-9_=-]{43}"),
    ("mongodb_key", "mdb_sa_sk_", r"[A-Za-z0-9_-]{40,}+"),
    ("neon_key", "napi_", r"[A-Za-z0-9]{50,}+"),
    ("contentful_token", "CFPAT-", r"[A-Za-z0-9_-]{43}"),
    ("typeform_token", "tfp_", r"[A-Za-z0-9_.=-]{44,}+"),
    ("readme_key", "rdme_", r"[a-z0-9]{60,}+"),
    ("infracost_key", "ico-", r"[A-Za-z0-9]{32}"),
    ("mapbox_token", "sk.eyJ tk.eyJ", r"[A-Za-z0-9_-]{20,}+\.[A-Za-z0-9_-]{20,}+"),
    ("launchdarkly_key", "sdk-", _UUID),
)

# Keys without a prefix; each with a text that it holds, which is searched first.
_OTHER_RULES: Final = tuple(
    (kind, part, re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])"))
    for kind, part, pattern in (
        ("azure_secret", "Q~", r"[A-Za-z0-9_.~-]{3}[0-9]Q~[A-Za-z0-9_.~-]{31,}+"),
        ("azure_secret", "AZDO", r"[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}"),
        ("azure_secret", "JQQJ99", r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{24,30}+"),
        ("azure_secret", "+A", r"[A-Za-z0-9+/]{75}\+A(?:Stx|IoT|Sbx|Eh|RmC)[A-Za-z0-9+/=]{4,10}+"),
        ("terraform_token", ".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,}+"),
        ("telegram_token", ":AA", r"[0-9]{8,12}:AA[A-Za-z0-9_-]{32,}+"),
        ("mailchimp_key", "-us", r"[0-9a-f]{32}-us[0-9]{1,2}"),
        ("mailgun_key", "-", r"[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}"),
        ("asana_token", ":", r"[0-9]/[0-9]{10,20}(?:/[0-9]{10,20})?:[0-9a-f]{32}"),
    )
)

_KINDS: Final = {prefix: kind for kind, prefixes, _ in _RULES for prefix in prefixes.split()}
_LENGTHS: Final = sorted({len(prefix) for prefix in _KINDS}, reverse=True)


def redact_service_keys(text: str) -> str:
    """Return a text with `[redacted:kind]` in the place of each key of a service."""
    text = _KEY.sub(_key, text)
    for kind, part, pattern in _OTHER_RULES:
        if part in text:
            text = pattern.sub(f"[redacted:{kind}]", text)
    return text


def _key(found: re.Match[str]) -> str:
    key = found[0]
    return next(f"[redacted:{_KINDS[key[:length]]}]" for length in _LENGTHS if key[:length] in _KINDS)


_PREFIXES: Final = tree_pattern((prefix, tail) for _, prefixes, tail in _RULES for prefix in prefixes.split())
_KEY: Final = re.compile(f"(?<![A-Za-z0-9]){_PREFIXES}(?![A-Za-z0-9])")
