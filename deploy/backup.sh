#!/usr/bin/env bash
# Backs up a running service: database, waiting uploads and images. Run it on the same machine as `imageprocessor serve`,
# as the same user, and in its folder (because of .env) or with its environment. It also needs rsync.
#
#   deploy/backup.sh /backups                    0 2 * * *  cd /srv/imageprocessor && deploy/backup.sh /backups
#
# Each backup is a complete folder, such as /backups/2026-11-22T02-00-00Z. Files that have not changed since the previous
# backup are hard links and take no extra space. The newest KEEP=14 backups are kept.
#
# With PostgreSQL, set PGDATABASE, PGHOST, PGUSER … as for PostgreSQL's own tools: the script runs pg_dump.
# With S3, `aws s3 sync` copies the images from S3_BUCKET to BACKUP_BUCKET; it never deletes anything there.
#
# Exit codes: 0 success, 1 failure, 2 wrong usage or settings, 75 another backup is running.
set -euo pipefail
umask 077 # uploads still contain their metadata, and the backup may include the key that signs tokens

fail() { # CODE MESSAGE
    echo "backup.sh: $2" >&2
    exit "$1"
}

setting() { # NAME: print the setting's value as the service reads it
    python3 -c 'import json, sys
print(next(row["value"] or "" for row in json.load(sys.stdin) if row["name"] == sys.argv[1]))' "$1" <<<"${settings}"
}

copy() { # FOLDER NAME: mirror FOLDER to NAME in this backup
    mkdir -p "${draft}/$2"
    if [[ -d "$1" ]]; then
        rsync --archive --exclude=/.tmp --link-dest="${last}/$2" "$1/" "${draft}/$2/"
    fi
}

[[ $# -eq 1 && -n "$1" ]] || fail 2 "usage: backup.sh FOLDER"
keep=${KEEP:-14}
[[ "${keep}" =~ ^[1-9][0-9]*$ ]] || fail 2 "KEEP=${keep} is not a number of backups. Set it to 1 or more."
settings=$(imageprocessor config --json) || fail 2 "cannot read the service's settings"
backend=$(setting STORAGE_BACKEND)
bucket=$(setting S3_BUCKET)
if [[ "${backend}" == s3 && (-z "${bucket}" || -z "${BACKUP_BUCKET:-}") ]]; then
    fail 2 "With STORAGE_BACKEND=s3, S3_BUCKET is copied to BACKUP_BUCKET. Set both, or let S3 replicate the buckets."
fi

mkdir -p "$1"
folder=$(cd "$1" && pwd)
exec 9>"${folder}/.lock"
flock --nonblock 9 || fail 75 "another backup to ${folder} is running"

draft="${folder}/.unfinished"
last=$(find "${folder}" -mindepth 1 -maxdepth 1 -type d -name '20*Z' | sort | tail -n 1)
last=${last:-${folder}/none}
rm -rf "${draft}" # left by an interrupted backup
mkdir "${draft}"

# Copy the database before the images: after a restore, the sweep removes images that are newer than the database, but no
# image in the database is missing. Copy the uploads before and after the database, because an upload that is waiting in
# the database may be processed and deleted before the second copy.
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
