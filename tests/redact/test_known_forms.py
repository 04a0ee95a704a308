"""What redaction knows by name and by form, one by one: a row of its tables that is lost or mistyped is found here.

The lists are written out again for that, so that a row can't be lost in both at once.
"""

from __future__ import annotations

import random
import string

import pytest

from audit_async import Redactor
from tests.redact.secret_corpus import card_number

#: What a letter of a form stands for; it is followed by a number of characters. After `=` a text is as it is.
ALPHABETS = {
    "a": string.ascii_lowercase,
    "d": string.digits,
    "h": "0123456789abcdef",
    "H": string.hexdigits,
    "l": string.ascii_lowercase + string.digits,
    "u": string.ascii_uppercase + string.digits,
    "w": string.ascii_letters + string.digits,
}

#: What a key is called, the prefixes that its service gives it, and the least that follows them.
KEYS = [
    ("aws_key", "AKIA ASIA ABIA ACCA", "u16"),
    ("aws_key", "A3T", "u17"),
    ("aws_key", "ABSK", "w100"),
    ("aws_key", "bedrock-api-key-", "w20"),
    ("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", "w30"),
    ("github_token", "github_pat_", "w22"),
    ("gitlab_token", "glpat- gldt- glrt- glrtr- glcbt- glptt- glft- glsoat-", "w20"),
    ("gitlab_token", "glagent- glimt- gloas- glffct- glwt- GR1348941", "w20"),
    ("slack_token", "xox", "a1 =- w10"),
    ("slack_token", "xapp- xwfp-", "w10"),
    ("google_key", "AIza", "w35"),
    ("google_key", "GOCSPX- ya29.", "w20"),
    ("google_key", "1//0", "w30"),
    ("stripe_key", "sk_live_ sk_test_ sk_prod_ sk_org_ rk_live_ rk_test_ rk_prod_", "w16"),
    ("stripe_key", "whsec_", "w24"),
    ("npm_token", "npm_", "w36"),
    ("pypi_token", "pypi-", "w50"),
    ("rubygems_key", "rubygems_", "h48"),
    ("crates_token", "cio", "w32"),
    ("nuget_key", "oy2", "l43"),
    ("docker_token", "dckr_pat_ dckr_oat_", "w20"),
    ("sendgrid_key", "SG.", "w16 =. w16"),
    ("mailgun_key", "key- pubkey-", "h32"),
    ("brevo_key", "xkeysib- xsmtpsib-", "h64 =- w16"),
    ("resend_key", "re_", "w6 =_ w20"),
    ("model_key", "sk-proj- sk-svcacct- sk-admin- sk-None- sk-service- sk-or-v1- sk-lf- sk-litellm-", "w20"),
    ("model_key", "nvapi- tgp_v1_ voyage-", "w20"),
    ("model_key", "sk-ant-", "l1 =- w20"),
    ("model_key", "sk- sess- gsk_ xai- pplx- r8_ csk-", "w30"),
    ("model_key", "lsv2_pt_ lsv2_sk_", "h32 =_ h10"),
    ("model_key", "fw_", "w22"),
    ("model_key", "pcsk_", "w50"),
    ("huggingface_token", "hf_ api_org_", "w30"),
    ("twilio_key", "SK", "h32"),
    ("digitalocean_token", "doo_v1_ dop_v1_ dor_v1_", "h64"),
    ("vault_token", "hvs. hvb. hvr.", "w20"),
    ("vault_token", "s.", "w24"),
    ("shopify_token", "shpat_ shpca_ shppa_ shpss_ shptka_", "H32"),
    ("age_key", "AGE-SECRET-KEY-1", "u58"),
    ("discord_token", "M N O", "w23 =. w6 =. w27"),
    ("discord_token", "mfa.", "w80"),
    ("linear_key", "lin_api_ lin_oauth_ lin_wh_", "w32"),
    ("notion_token", "ntn_", "w40"),
    ("notion_token", "secret_", "w43"),
    ("atlassian_token", "ATATT3 ATCTT3 ATBB", "w24"),
    ("square_token", "sq0atp- sq0csp- sq0idp-", "w22"),
    ("square_token", "EAAA", "w56"),
    ("facebook_token", "EAA", "w1 w60"),
    ("paypal_token", "access_token$production$ access_token$sandbox$", "l16 =$ h32"),
    ("plaid_token", "access-sandbox- access-development- access-production-", "h8 =- h4 =- h4 =- h4 =- h12"),
    ("grafana_token", "glc_", "w32"),
    ("grafana_token", "glsa_", "w32 =_ H8"),
    ("newrelic_key", "NRAK- NRJS- NRII- NRAL- NRRA-", "w19"),
    ("sentry_token", "sntrys_ sntryu_", "w40"),
    ("dynatrace_token", "dt0", "a1 d2 =. w24 =. w64"),
    ("databricks_token", "dapi dose dkea", "h32"),
    ("planetscale_token", "pscale_tkn_ pscale_oauth_ pscale_pw_", "w32"),
    ("supabase_key", "sbp_", "h40"),
    ("supabase_key", "sb_secret_", "w20"),
    ("netlify_token", "nfp_ nfc_ nfu_ nfo_ nfb_", "w36"),
    ("vercel_token", "vcp_ vck_ vca_ vci_ vcr_", "w24"),
    ("flyio_token", "fo1_", "w43"),
    ("flyio_token", "fm1a_ fm1r_ fm2_", "w60"),
    ("heroku_key", "HRKU-", "w36"),
    ("doppler_token", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", "w40"),
    ("pulumi_token", "pul-", "h40"),
    ("prefect_key", "pnu_ pnb_", "w36"),
    ("tailscale_key", "tskey-", "a3 =- w6"),
    ("cloudflare_key", "v1.0-", "h24 =- h146"),
    ("postman_key", "PMAK-", "h24 =- h34"),
    ("figma_token", "figd_ figo_ figu_", "w36"),
    ("dropbox_token", "sl.u. sl.", "w130"),
    ("hubspot_token", "pat-na pat-eu pat-ap", "d1 =- h8 =- h4 =- h4 =- h4 =- h12"),
    ("airtable_token", "pat", "w14 =. h64"),
    ("buildkite_token", "bkua_ bkct_ bkat_", "w30"),
    ("circleci_token", "CCIPAT_ CCIPRJ_", "w20 =_ h40"),
    ("sourcegraph_token", "sgp_", "h40"),
    ("onepassword_key", "A3-", "u6 =- u6 u5 =- u5 =- u5 =- u5"),
    ("onepassword_key", "ops_eyJ", "w100"),
    ("openshift_token", "sha256~", "w43"),
    ("octopus_key", "API-", "u26"),
    ("jfrog_key", "AKCp", "w60"),
    ("jfrog_key", "cmVmd", "w59"),
    ("alibaba_key", "LTAI", "w16"),
    ("tencent_key", "AKID", "w32"),
    ("adobe_secret", "p8e-", "w32"),
    ("easypost_key", "EZAK EZTK", "w54"),
    ("shippo_token", "shippo_live_ shippo_test_", "H40"),
    ("flutterwave_key", "FLWSECK- FLWSECK_TEST-", "w12"),
    ("duffel_token", "duffel_test_ duffel_live_", "w43"),
    ("mongodb_key", "mdb_sa_sk_", "w40"),
    ("neon_key", "napi_", "w50"),
    ("contentful_token", "CFPAT-", "w43"),
    ("typeform_token", "tfp_", "w44"),
    ("readme_key", "rdme_", "l60"),
    ("infracost_key", "ico-", "w32"),
    ("mapbox_token", "sk.eyJ tk.eyJ", "w20 =. w20"),
    ("launchdarkly_key", "sdk-", "h8 =- h4 =- h4 =- h4 =- h12"),
    ("azure_secret", "", "w3 d1 =Q~ w31"),
    ("azure_secret", "", "w76 =AZDO w4"),
    ("azure_secret", "", "w52 =JQQJ99 w24"),
    *(("azure_secret", "", f"w75 =+A{service} w6") for service in ("Stx", "IoT", "Sbx", "Eh", "RmC")),
    ("terraform_token", "", "w14 =.atlasv1. w60"),
    ("telegram_token", "", "d9 =:AA w32"),
    ("mailchimp_key", "", "h32 =-us d2"),
    ("mailgun_key", "", "h32 =- h8 =- h8"),
    ("asana_token", "", "d1 =/ d16 =: h32"),
]  # fmt: skip

#: Prefixes and lengths of card numbers, at both ends of each issuer's range.
CARDS = [
    ("4", 16), ("4", 19), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("6011", 16),
    ("6011", 19), ("644", 16), ("649", 16), ("65", 16), ("300", 14), ("305", 14), ("36", 14), ("38", 14), ("39", 14),
    ("3528", 16), ("3589", 16), ("62", 16), ("62", 19), ("5018", 13), ("5020", 16), ("5038", 19), ("6304", 16),
    ("6759", 16), ("6763", 16),
]  # fmt: skip

#: Names whose values are secrets, unless the settings say otherwise.
NAMES = [
    "password", "passwd", "pwd", "passphrase", "passcode", "pass", "password_confirmation", "password_hash",
    "secret", "token", "access_token", "refresh_token", "auth_token", "api_token", "jwt", "bearer", "otp",
    "totp", "authorization", "cookie", "credential", "api_key", "private_key", "secret_key", "access_key",
    "signing_key", "encryption_key", "master_key", "account_key", "shared_key", "session_key",
    "subscription_key", "auth_key", "hmac_key", "storage_key", "card_number", "cvv", "cvc", "security_code",
    "pin", "ssn", "social_security_number", "iban", "recovery_code", "recovery_phrase", "backup_code",
    "otp_code", "mfa_code", "seed_phrase", "mnemonic", "psk", "phpsessid", "jsessionid", "connect_sid",
    "sessid", "gitlab_session", "laravel_session", "passwort", "kennwort", "wachtwoord", "contrasena",
    "contraseña", "senha", "mot_de_passe", "losenord", "lösenord", "heslo", "haslo", "hasło", "пароль", "密码",
    "密碼", "パスワード", "비밀번호",
]  # fmt: skip


def made(form: str) -> str:
    """Return a text of a form, always the same one."""
    chosen = random.Random(form)  # noqa: S311 - no secret, and the same at each run
    parts = [
        part[1:] if part[0] == "=" else "".join(chosen.choices(ALPHABETS[part[0]], k=int(part[1:])))
        for part in form.split()
    ]
    return "".join(parts)


@pytest.mark.parametrize(("kind", "prefixes", "form"), KEYS)
def test_a_key_of_each_service_is_found(kind: str, prefixes: str, form: str) -> None:
    """With each prefix, in a sentence, and nothing of it stays."""
    for prefix in prefixes.split() or [""]:
        key = prefix + made(form)
        assert Redactor().redact_text(f"sent {key} to them") == f"sent [redacted:{kind}] to them", prefix


@pytest.mark.parametrize(("prefix", "length"), CARDS)
def test_a_card_of_each_issuer_is_found(prefix: str, length: int) -> None:
    """By its prefix, its length and its last digit; with another last digit it is a number."""
    chosen = random.Random(f"{prefix}/{length}")  # noqa: S311 - the same in each run: one in ten of 13 digits is an EAN
    number = card_number(prefix, length, chosen)
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert Redactor().redact_text(f"paid with {number} today") == "paid with [redacted:card_number] today"
    assert Redactor().redact_text(f"paid with {wrong} today") == f"paid with {wrong} today"


@pytest.mark.parametrize("name", NAMES)
def test_each_secret_name_covers_its_value(name: str) -> None:
    """Whatever the value is, as data and in a text."""
    [(shown_name, shown)] = Redactor().redact({name: "correct horse battery"}).items()  # type: ignore[attr-defined]
    assert shown_name == name
    assert shown.startswith("[redacted:")
    assert "horse-battery" not in Redactor().redact_text(f"{name}=horse-battery")
