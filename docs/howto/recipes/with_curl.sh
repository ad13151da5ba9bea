#!/usr/bin/env bash
# Everything with curl alone (7.84 or newer): bash with_curl.sh http://127.0.0.1:8080 cat.jpg dog.jpg
# With API keys: export ALEXQ_API_KEY=alexq_…
set -euo pipefail
server=$1; shift
call() { curl --silent --show-error --fail-with-body ${ALEXQ_API_KEY:+-H "Authorization: Bearer $ALEXQ_API_KEY"} "$@"; }

# One picture; the answer is the finished job, or the accepted one where it takes longer than a minute.
call -H 'Content-Type: image/jpeg' -H 'Prefer: wait=60' --data-binary @"$1" "$server/v1/jobs?source=$1"
echo

# One picture, not waited for: Location says where the job is. The key, here of the content, makes it safe to repeat.
job=$(call -o /dev/null -w '%header{location}' --retry 5 -H "Idempotency-Key: $(cksum < "$1" | tr -d ' ')" \
  -H 'Content-Type: image/jpeg' --data-binary @"$1" "$server/v1/jobs?source=$1")
call -H 'Prefer: wait=60' "$server$job"
echo

# Many pictures as a tar, sent while it is made; then the results, one a line, as they finish.
submission=$(tar -cf - "$@" | call -o /dev/null -w '%header{location}' -H 'Content-Type: application/x-tar' \
  -T - -X POST "$server/v1/submissions?rejected=skip")
call --no-buffer "$server$submission/results?wait_s=60"

# Cancel: what is unfinished of a submission, or one job (409 where it has ended).
call -X DELETE "$server$submission"
echo
