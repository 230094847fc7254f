# shellcheck shell=bash disable=SC2034
# What the testbed's scripts share; sourced, not run.
set -euo pipefail
# Whoever the services run as must be able to read their files.
umask 022
# Where Debian keeps servers, which is not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# PostgreSQL and MariaDB refuse to run as root, and whoever they run as must be able to reach their files.
# So for root the services live where everybody may go; for others in the target folder.
if [ "$(id -u)" = 0 ]; then
    as_user="setpriv --reuid=nobody --regid=$(id -gn nobody) --clear-groups"
    default_home=/var/tmp/outboxd-testbed-$(printf %s "$repository" | cksum | cut -d' ' -f1)
else
    as_user=""
    default_home=$repository/target/testbed
fi
testbed=$(realpath -m "${OUTBOXD_TESTBED:-$default_home}")
env_file=$repository/target/testbed/env

say() { printf 'testbed: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Gives a folder to the user that the services run as.
own() { [ -z "$as_user" ] || chown -R nobody: "$@"; }

# A port of the loopback interface that nobody listens on, below the range that outgoing connections use.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if free "$port"; then echo "$port"; return; fi
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free() { ! listens "$1"; }

# A service keeps its port for good. Its own last run may take a moment to let go of it.
claim_port() { wait_for 5 "the end of another program on port $1, which $2 keeps" free "$1"; }

# Waits until a command succeeds: wait_for SECONDS WHAT COMMAND…
wait_for() {
    local tries=$(($1 * 20)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "waited in vain for $what"
        sleep 0.05
    done
}

# Whether the process in a pid file runs and is what it should be: alive PIDFILE WORD-OF-ITS-COMMAND-LINE
alive() {
    local pid
    pid=$(head -n 1 "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2"
}

gone() { ! alive "$@"; }

# Sends a signal to the process of a pid file, if it is ours: signal SIGNAL PIDFILE WORD
signal() {
    if alive "$2" "$3"; then kill -s "$1" "$(head -n 1 "$2")" 2>/dev/null || true; fi
}

# Runs the script itself once more, when nobody else's run of `up` or `down` is under way here.
one_at_a_time() {
    [ -z "${OUTBOXD_TESTBED_LOCKED:-}" ] || return 0
    mkdir -p "$testbed"
    # --close: the services must not inherit the lock.
    OUTBOXD_TESTBED_LOCKED=yes exec flock --close "$testbed/lock" "$0" "$@"
}

# A certificate authority and a certificate for the loopback names, made once.
certificates() {
    local tls=$testbed/tls part
    [ -d "$tls" ] && { echo "$tls"; return; }
    part=$(part "$tls")
    (
        cd "$part"
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=outboxd testbed" -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >names
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile names -out server.crt
        cat server.key server.crt >server.pem
    ) 2>/dev/null
    complete "$part" "$tls"
    echo "$tls"
}

# The folder that a command names, which `start` and `standby` make.
folder() {
    local command=${1:-} dir=${2:-}
    [ -n "$dir" ] || die "which folder? The commands are told at the top of $0"
    case $command in start | standby) mkdir -p "$dir" ;; esac
    realpath -m "$dir"
}

# What is downloaded or made goes to a folder of its own and is named when complete: tests may want the same one at once.
part() {
    local part
    part=$(mktemp -d "$1.part-XXXXXX")
    chmod 755 "$part"
    echo "$part"
}
complete() { mv -T "$1" "$2" 2>/dev/null || { rm -rf "$1" && [ -d "$2" ]; }; }

maven() { mvn -q -B -f "$repository/testbed/kafka/pom.xml" "$@" >&2; }
