#!/usr/bin/env bash
# A PostgreSQL of one's own: postgres.sh start DIR [--version 18|13] [-c NAME=VALUE]…
#                            postgres.sh stop|kill|restart DIR
#                            postgres.sh backup|restore DIR COPY
#                            postgres.sh standby DIR PRIMARY
#                            postgres.sh detach|promote DIR
# `start` prints the URL, which is also in DIR/url; `kill` is a SIGKILL of the postmaster, whose process id
# is the first line of DIR/data/postmaster.pid. `backup` copies the data of a server at work, `restore` puts the copy in
# their place and starts the server again. `standby` makes a streaming standby of the server in PRIMARY and prints its URL;
# once it is detached it is behind: `promote` ends its recovery with what it has.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

newest=18.6.0
oldest=13.23.0

binaries() {
    local version=$1 home=$testbed/postgres-$1 machine part
    [ -x "$home/bin/postgres" ] && { echo "$home"; return; }
    case $(uname -m) in
        x86_64) machine=amd64 ;;
        aarch64) machine=arm64v8 ;;
        *) die "no PostgreSQL for $(uname -m) is known here" ;;
    esac
    say "getting PostgreSQL $version"
    part=$(part "$home")
    maven dependency:copy -DoutputDirectory="$part" \
        -Dartifact="io.zonky.test.postgres:embedded-postgres-binaries-linux-$machine:$version"
    (cd "$part" && unzip -qo ./*.jar '*.txz' && tar xJf ./*.txz && rm ./*.jar ./*.txz)
    complete "$part" "$home"
    echo "$home"
}

init() {
    local dir=$1 home=$2 tls
    tls=$(certificates)
    # What an interrupted start left.
    rm -rf "$dir/data"
    # A socket's path has at most 107 bytes, so it does not live below DIR.
    mktemp -d /tmp/outboxd-socket-XXXXXX >"$dir/socket"
    echo outboxd >"$dir/password"
    own "$dir" "$(cat "$dir/socket")"
    $as_user "$home/bin/initdb" --no-sync -D "$dir/data" -U outboxd --pwfile="$dir/password" \
        -A scram-sha-256 -E UTF8 --locale=C.UTF-8 >"$dir/initdb.log" 2>&1 || die "initdb failed, see $dir/initdb.log"
    cp "$tls/server.crt" "$tls/server.key" "$dir/data/"
    chmod 600 "$dir/data/server.key"
    own "$dir/data"
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 256MB
max_wal_size = 2GB
ssl = on
log_checkpoints = off
CONF
}

launch() {
    local dir=$1 home
    home=$(cat "$dir/home")
    claim_port "$(cat "$dir/port")" "$dir"
    # Someone else may have killed the postmaster.
    wait_for 30 "the end of the children of a former postmaster" childless "$dir"
    forget "$dir"
    # /tmp may have been emptied meanwhile.
    mkdir -p "$(cat "$dir/socket")"
    own "$(cat "$dir/socket")"
    # pg_ctl waits until the server accepts connections.
    $as_user "$home/bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 \
        -o "-p $(cat "$dir/port") -k $(cat "$dir/socket")" start >/dev/null 2>&1 ||
        die "PostgreSQL did not start, see $dir/log"
}

start() {
    local dir=$1 version=$newest settings=() home
    shift
    while [ $# -gt 0 ]; do
        [ $# -gt 1 ] || die "$1 needs a value"
        case $1 in
            --version) case $2 in 13) version=$oldest ;; 18) version=$newest ;; *) version=$2 ;; esac ;;
            -c) settings+=("${2%%=*} = '${2#*=}'") ;;
            *) die "unknown option $1" ;;
        esac
        shift 2
    done
    if [ ! -f "$dir/url" ]; then
        home=$(binaries "$version")
        echo "$home" >"$dir/home"
        free_port >"$dir/port"
        init "$dir" "$home"
        echo 'create database outboxd;' | $as_user "$home/bin/postgres" --single -D "$dir/data" postgres >/dev/null 2>&1
        echo "postgres://outboxd:outboxd@127.0.0.1:$(cat "$dir/port")/outboxd" >"$dir/url"
    fi
    if ! running "$dir"; then
        # The last one counts, so a later start can change a setting.
        [ ${#settings[@]} = 0 ] || printf '%s\n' "${settings[@]}" >>"$dir/data/postgresql.conf"
        launch "$dir"
    fi
    cat "$dir/url"
}

running() { alive "$1/data/postmaster.pid" "$1/data"; }

stop() {
    running "$1" || return 0
    $as_user "$(cat "$1/home")/bin/pg_ctl" -D "$1/data" -w -t 60 -m "${2:-fast}" stop >/dev/null
}

# SIGKILL of the postmaster alone; its children notice and end by themselves.
murder() {
    local pid
    running "$1" || return 0
    pid=$(head -n 1 "$1/data/postmaster.pid")
    kill -s KILL "$pid"
    wait_for 30 "the end of the children of the postmaster" childless "$1"
}

# A killed postmaster leaves its lock files, and where nobody reaps it, its process id looks taken.
forget() { rm -f "$1/data/postmaster.pid" "$(cat "$1/socket")"/.s.PGSQL.*; }

childless() {
    local cwd
    for cwd in /proc/[0-9]*/cwd; do
        [ ! "$cwd" -ef "$1/data" ] || return 1
    done
}

# Statements for the server's superuser, read from the standard input, one answer a line.
ask() { psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$(cat "$1/url")"; }

# A copy from which a server recovers, taken while the server in DIR writes: backup DIR COPY
backup() {
    local dir=$1 copy=$2 begin="pg_backup_start('copy', true)" end="pg_backup_stop(false)" label
    running "$dir" || die "nothing runs in $dir"
    [ ! -e "$copy" ] || die "$copy exists"
    case $(cat "$dir/data/PG_VERSION") in
        13 | 14) begin="pg_start_backup('copy', true, false)" end="pg_stop_backup(false, false)" ;;
    esac
    mkdir -p "$copy"
    # One session begins and ends it, and copies in between.
    ask "$dir" <<SQL
select from $begin;
\! cd '$dir/data' && tar -c --exclude='./postmaster.*' --exclude='./pg_wal/?*' --warning=no-file-changed . | tar -xp -C '$copy'
\o $copy/backup_label
select labelfile from $end;
SQL
    label=$(cat "$copy/backup_label")
    [[ $label = "START WAL LOCATION"* ]] || die "the backup in $copy has no label"
    # What was written meanwhile is recovered from the log, so that comes last.
    cp -a "$dir/data/pg_wal/." "$copy/pg_wal/"
    chmod 700 "$copy"
    own "$copy"
}

# Puts a copy, which stays, in place of the data, or what a server that has stopped holds: restore DIR COPY
restore() {
    [ -f "$2/PG_VERSION" ] && [ ! -f "$2/postmaster.pid" ] || die "$2 is no copy of a server's data"
    stop "$1" immediate
    wait_for 30 "the end of the children of the postmaster" childless "$1"
    rm -rf "$1/data"
    cp -a "$2" "$1/data"
    launch "$1"
}

# A streaming standby of the server in PRIMARY: standby DIR PRIMARY
standby() {
    local dir=$1 primary=$2
    [ ! -e "$dir/data" ] || die "there is a server in $dir already"
    cp "$primary/home" "$primary/password" "$dir/"
    free_port >"$dir/port"
    mktemp -d /tmp/outboxd-socket-XXXXXX >"$dir/socket"
    backup "$primary" "$dir/data"
    # Where `detach` changes it.
    echo "primary_conninfo = 'host=127.0.0.1 port=$(cat "$primary/port") user=outboxd password=outboxd'" \
        >>"$dir/data/postgresql.auto.conf"
    touch "$dir/data/standby.signal"
    own "$dir" "$(cat "$dir/socket")"
    sed "s/127.0.0.1:[0-9]*/127.0.0.1:$(cat "$dir/port")/" "$primary/url" >"$dir/url"
    launch "$dir"
}

# From now on it gets nothing any more. Returns when it has shown all that it got.
detach() {
    ask "$1" <<<"alter system set primary_conninfo = ''; select from pg_reload_conf();"
    wait_for 30 "the end of the replication to $1" received "$1"
}
received() {
    local state
    state=$(ask "$1" <<<"select count(*), coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), true) from pg_stat_wal_receiver")
    [ "$state" = "0|t" ]
}

# pg_ctl waits until it takes writes.
promote() { $as_user "$(cat "$1/home")/bin/pg_ctl" -D "$1/data" -w -t 60 promote >/dev/null; }

command=${1:-}
dir=$(folder "$@")
shift 2
# Nothing can run in a folder that was never made.
[ "$command" != stop ] || [ -d "$dir" ] || exit 0
[ -d "$dir" ] || die "there is no folder $dir"
[ -z "$as_user" ] || $as_user test -x "$dir" || die "$dir cannot be reached by the user nobody: choose a folder below $default_home"
case $command in
    backup | restore | standby)
        [ -n "${1:-}" ] || die "$command needs a second folder"
        other=$(realpath -m "$1")
        ;;
esac
# The programs insist on a current folder that they can go back to.
cd "$dir"
case $command in
    start) start "$dir" "$@" ;;
    stop) if [ "${1:-}" = --immediate ]; then stop "$dir" immediate; else stop "$dir"; fi ;;
    kill) murder "$dir" ;;
    restart) stop "$dir"; launch "$dir"; cat "$dir/url" ;;
    backup) backup "$dir" "$other" ;;
    restore) restore "$dir" "$other"; cat "$dir/url" ;;
    standby) standby "$dir" "$other"; cat "$dir/url" ;;
    detach) detach "$dir" ;;
    promote) promote "$dir" ;;
    *) die "unknown command $command" ;;
esac
