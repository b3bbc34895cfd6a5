#!/usr/bin/env bash
# Backs up a running service: the database, the uploads that wait, the images. Run it where `imageprocessor serve` runs:
# as its user, in its folder (.env) or with its environment. What it needs besides: rsync.
#
#   deploy/backup.sh /backups                    0 2 * * *  cd /srv/imageprocessor && deploy/backup.sh /backups
#
# Each backup is a folder of its own, /backups/2026-11-22T02-00-00Z, and complete; what has not changed since the one
# before takes no space again. KEEP=14 of them are kept.
#
# With PostgreSQL, pg_dump is used: set PGDATABASE, PGHOST, PGUSER … as for any of PostgreSQL's tools.
# With S3, images are copied from S3_BUCKET to BACKUP_BUCKET by `aws s3 sync`; nothing is ever deleted there.
#
# Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 75 another backup is running.
set -euo pipefail
umask 077 # uploads still hold their metadata, and the key that signs tokens may be here

fail() { # CODE MESSAGE
    echo "backup.sh: $2" >&2
    exit "$1"
}

setting() { # NAME: its value, as the service reads it
    python3 -c 'import json, sys
print(next(row["value"] or "" for row in json.load(sys.stdin) if row["name"] == sys.argv[1]))' "$1" <<<"${settings}"
}

copy() { # FOLDER NAME: mirror FOLDER to NAME of this backup
    mkdir -p "${draft}/$2"
    if [[ -d "$1" ]]; then
        rsync --archive --exclude=/.tmp --link-dest="${last}/$2" "$1/" "${draft}/$2/"
    fi
}

[[ $# -eq 1 && -n "$1" ]] || fail 2 "usage: backup.sh FOLDER"
keep=${KEEP:-14}
[[ "${keep}" =~ ^[1-9][0-9]*$ ]] || fail 2 "KEEP=${keep}: set it to how many backups to keep, 1 or more"
settings=$(imageprocessor config --json) || fail 2 "the service's settings cannot be read"
backend=$(setting STORAGE_BACKEND)
bucket=$(setting S3_BUCKET)
if [[ "${backend}" == s3 && (-z "${bucket}" || -z "${BACKUP_BUCKET:-}") ]]; then
    fail 2 "STORAGE_BACKEND=s3: this copies S3_BUCKET to BACKUP_BUCKET, so set both (or let S3 replicate the buckets)"
fi

mkdir -p "$1"
folder=$(cd "$1" && pwd)
exec 9>"${folder}/.lock"
flock --nonblock 9 || fail 75 "another backup to ${folder} is running"

draft="${folder}/.unfinished"
last=$(find "${folder}" -mindepth 1 -maxdepth 1 -type d -name '20*Z' | sort | tail -n 1)
last=${last:-${folder}/none}
rm -rf "${draft}" # of a backup that was cut off
mkdir "${draft}"

# The database before the images: what is newer than it is swept away after a restore, but nothing in it is missing.
# Uploads before and after it: one that was waiting then may be processed, and removed, by now.
data_dir=$(setting DATA_DIR)
copy "${data_dir}/staging" staging
if [[ -n "${PGDATABASE:-}" ]]; then
    mkdir "${draft}/database"
    pg_dump --format=custom --file="${draft}/database/processor.dump"
else
    imageprocessor backup "${draft}/database" >/dev/null
fi
copy "${data_dir}/staging" staging
if [[ "${backend}" == local ]]; then
    storage_path=$(setting STORAGE_PATH)
    copy "${storage_path}" storage
else
    endpoint=$(setting S3_ENDPOINT_URL)
    aws ${endpoint:+--endpoint-url "${endpoint}"} s3 sync --only-show-errors "s3://${bucket}" "s3://${BACKUP_BUCKET}"
fi

name=$(date --utc +%Y-%m-%dT%H-%M-%SZ)
mv --no-target-directory "${draft}" "${folder}/${name}"
echo "${folder}/${name}"

find "${folder}" -mindepth 1 -maxdepth 1 -type d -name '20*Z' | sort | head -n "-${keep}" | while read -r old; do
    rm -rf "${old}"
done
