# What the testbed's scripts share; sourced, not run.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# PostgreSQL and MariaDB refuse to run as root, and whoever they run as must be able to reach their files.
# So for root the services live where everybody may go; for others in the target folder.
if [ "$(id -u)" = 0 ]; then
    as_user="setpriv --reuid=nobody --regid=nogroup --clear-groups"
    default_home=/var/tmp/outboxd-testbed-$(printf %s "$repository" | cksum | cut -d' ' -f1)
else
    as_user=""
    default_home=$repository/target/testbed
fi
testbed=${OUTBOXD_TESTBED:-$default_home}
env_file=$repository/target/testbed/env

say() { printf 'testbed: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Gives a folder to the user that the services run as.
own() { [ -z "$as_user" ] || chown -R nobody:nogroup "$@"; }

# A port of the loopback interface that nobody listens on, below the range that outgoing connections use.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        listens "$port" || { echo "$port"; return; }
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Waits until a command succeeds: wait_for SECONDS WHAT COMMAND…
wait_for() {
    local tries=$(($1 * 20)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "$what did not happen in time"
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

maven() { mvn -q -B -f "$repository/testbed/kafka/pom.xml" "$@" >&2; }
