#!/usr/bin/env bash
# A MariaDB of one's own: mariadb.sh start|stop|kill DIR. `start` prints the URL, which is also in DIR/url. `kill` is a SIGKILL of
# the server, whose process id is in DIR/pid.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

init() {
    local dir=$1
    # What an interrupted start left.
    rm -rf "$dir/data"
    free_port >"$dir/port"
    # Not /tmp: a server that starts removes what others have under way there.
    mkdir -p "$dir/tmp"
    own "$dir"
    $as_user mariadb-install-db --no-defaults --datadir="$dir/data" --auth-root-authentication-method=normal \
        >"$dir/install.log" 2>&1 || die "mariadb-install-db failed, see $dir/install.log"
    cat >"$dir/init.sql" <<'SQL'
create database if not exists outboxd;
create user if not exists outboxd@'127.0.0.1' identified by 'outboxd';
create user if not exists outboxd@localhost identified by 'outboxd';
grant all on *.* to outboxd@'127.0.0.1' with grant option;
grant all on *.* to outboxd@localhost with grant option;
SQL
    echo "mysql://outboxd:outboxd@127.0.0.1:$(cat "$dir/port")/outboxd" >"$dir/url"
}

start() {
    local dir=$1
    [ -f "$dir/url" ] || init "$dir"
    if ! running "$dir"; then
        claim_port "$(cat "$dir/port")" "$dir"
        $as_user setsid nohup mariadbd --no-defaults --datadir="$dir/data" --tmpdir="$dir/tmp" --socket="$dir/socket" \
            --pid-file="$dir/pid" --bind-address=127.0.0.1 --port="$(cat "$dir/port")" --init-file="$dir/init.sql" --skip-name-resolve=0 \
            --max-connections=500 \
            >"$dir/log" 2>&1 </dev/null &
        wait_for 60 "the start of MariaDB (see $dir/log)" answers "$dir"
    fi
    cat "$dir/url"
}

running() { alive "$1/pid" "$1/data"; }

answers() { running "$1" && listens "$(cat "$1/port")"; }

stop() {
    signal "$2" "$1/pid" "$1/data"
    wait_for 60 "the end of MariaDB" gone "$1/pid" "$1/data"
}

command=${1:-}
dir=$(folder "$@")
case $command in
    start) start "$dir" ;;
    stop) stop "$dir" TERM ;;
    kill) stop "$dir" KILL ;;
    *) die "unknown command $command" ;;
esac
