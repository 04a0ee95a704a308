#!/bin/sh
# Make the report of the month before, and hand it on: run by audit-report.service, or by cron.
#
#   AUDIT_BASE_DIR         the trail
#   AUDIT_REPORT_DIR       where the reports go, such as /var/lib/audit-reports
#   AUDIT_REPORT_FRAMEWORK soc2, pci_dss, ...
#   AUDIT_REPORT_OPTIONS   more options, such as: --config /etc/audit-async/orders.toml --vkey ...
#   AUDIT_REPORT_SEND      a program that is called with the path of the page, to mail or upload it; may be empty
set -eu
first=$(date -u +%Y-%m-01)
since=$(date -u -d "$first -1 month" +%Y-%m-%d)
until=$(date -u -d "$first -1 day" +%Y-%m-%d)
page="$AUDIT_REPORT_DIR/$AUDIT_REPORT_FRAMEWORK-$(date -u -d "$since" +%Y-%m).html"
started=$(mktemp)
trap 'rm -f "$started"' EXIT
status=0
# shellcheck disable=SC2086 # options are several words
audit-async report "$AUDIT_BASE_DIR" --framework "$AUDIT_REPORT_FRAMEWORK" --since "$since" --until "$until" \
    --out "$page" --as "${AUDIT_REPORT_AS:-monthly report}" --force ${AUDIT_REPORT_OPTIONS:-} || status=$?
# 1 and 3: something was found, or can't be read; if the page was written, it is all the more to be sent.
if [ -n "${AUDIT_REPORT_SEND:-}" ] && [ "$page" -nt "$started" ]; then
    "$AUDIT_REPORT_SEND" "$page"
fi
exit "$status"
