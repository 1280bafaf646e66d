#!/bin/sh
# An example of a policy's hook: exit status 0 lets a round go on. In policy.toml: hook = ["/usr/local/bin/hook.sh"]
# It is told of the round on its standard input (JSON) and in FEDREC_ROUND, FEDREC_COHORT, FEDREC_NOISE_MULTIPLIER …
set -eu

# Quiet hours: not between 8 and 22 o'clock, when somebody uses the device.
hour=$(date +%-H)
if [ "$hour" -ge 8 ] && [ "$hour" -lt 22 ]; then
    exit 1
fi

# Not on battery; a machine without a battery has nothing to ask.
for supply in "${FEDREC_POWER:-/sys/class/power_supply}"/*; do
    if [ -r "$supply/type" ] && [ "$(cat "$supply/type")" = Battery ] && [ "$(cat "$supply/status")" = Discharging ]; then
        exit 1
    fi
done

# Not on a metered network, where NetworkManager knows.
if command -v nmcli >/dev/null 2>&1; then
    case $(nmcli -g GENERAL.METERED device show 2>/dev/null || true) in
        *yes*) exit 1 ;;
    esac
fi
