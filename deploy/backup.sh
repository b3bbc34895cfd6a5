#!/usr/bin/env bash
# Backs up a running service: database, waiting uploads and images. Run it on the same machine as `imageprocessor serve`,
# as the same user, and in its folder (because of .env) or with its environment. It also needs rsync; for PostgreSQL pg_dump,
# for S3 the AWS command line.
#
#   deploy/backup.sh /backups                    0 2 * * *  cd /srv/imageprocessor && deploy/backup.sh /backups
#
# Each backup is a complete folder, such as /backups/2026-11-22T02-00-00Z. Files that have not changed since the previous
# backup are hard links and take no extra space. The newest KEEP=14 backups are kept.
#
# With PostgreSQL, pg_dump copies the database of DATABASE_URL to processor.dump. Behind a pooler such as PgBouncer, set
# DATABASE_DIRECT_URL: pg_dump would leave its settings in a connection that others use next.
# With S3, `aws s3 sync` copies the images from S3_BUCKET to BACKUP_BUCKET, with the service's keys, which must be allowed to
# write there; it never deletes anything in it.
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
    local options=(--archive --exclude=/.tmp)
    mkdir -p "${draft}/$2"
    if [[ -n "${last}" && -d "${last}/$2" ]]; then
        options+=("--link-dest=${last}/$2")
    fi
    if [[ -d "$1" ]]; then
        rsync "${options[@]}" "$1/" "${draft}/$2/"
    fi
}

dump() { # URL: dump the PostgreSQL database; the password is not in the command line, where other users could see it
    local parts url password
    parts=$(python3 -c 'import sys, urllib.parse as parse
url = parse.urlsplit(sys.stdin.read().strip())
user, _, host = url.netloc.rpartition("@")
name, _, password = user.partition(":")
print(parse.unquote(password))
print(url._replace(scheme="postgresql", netloc=f"{name}@{host}" if name else host).geturl())' <<<"$1")
    { IFS= read -r password && read -r url; } <<<"${parts}"
    if [[ -n "${password}" ]]; then
        export PGPASSWORD=${password}
    fi
    pg_dump --format=custom --file="${draft}/database/processor.dump" --dbname="${url}"
}

sync_bucket() { # copy the images in S3 to BACKUP_BUCKET, with the service's own keys and address
    local name value endpoint
    for name in AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION; do
        value=$(setting "${name}")
        if [[ -n "${value}" ]]; then
            export "${name}=${value}"
        fi
    done
    if [[ -n "${AWS_REGION:-}" ]]; then
        export AWS_DEFAULT_REGION=${AWS_REGION} # which older versions of aws read
    fi
    endpoint=$(setting S3_ENDPOINT_URL)
    aws ${endpoint:+--endpoint-url "${endpoint}"} s3 sync --only-show-errors "s3://${bucket}" "s3://${BACKUP_BUCKET}"
}

[[ $# -eq 1 && -n "$1" ]] || fail 2 "usage: backup.sh FOLDER"
keep=${KEEP:-14}
[[ "${keep}" =~ ^[1-9][0-9]*$ ]] || fail 2 "KEEP=${keep} is not a number of backups. Set it to 1 or more."
settings=$(imageprocessor config --json --show-secrets) || fail 2 "cannot read the service's settings"
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
rm -rf "${draft}" # left by an interrupted backup
mkdir "${draft}"

# Copy the database before the images: after a restore, the sweep removes images that are newer than the database, but no
# image in the database is missing. Copy the uploads before and after the database, because an upload that is waiting in
# the database may be processed and deleted before the second copy.
data_dir=$(setting DATA_DIR)
copy "${data_dir}/staging" staging
database_url=$(setting DATABASE_DIRECT_URL)
database_url=${database_url:-$(setting DATABASE_URL)}
if [[ "${database_url}" == postgresql* ]]; then
    mkdir "${draft}/database"
    dump "${database_url}"
else
    imageprocessor backup --json "${draft}/database" >/dev/null
fi
copy "${data_dir}/staging" staging
if [[ "${backend}" == local ]]; then
    storage_path=$(setting STORAGE_PATH)
    copy "${storage_path}" storage
else
    sync_bucket
fi

name=$(date --utc +%Y-%m-%dT%H-%M-%SZ)
mv --no-target-directory "${draft}" "${folder}/${name}"
echo "${folder}/${name}"

find "${folder}" -mindepth 1 -maxdepth 1 -type d -name '20*Z' | sort | head -n "-${keep}" | while read -r old; do
    rm -rf "${old}"
done
