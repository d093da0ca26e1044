#!/bin/sh
# Nightly: asks an agent in one and the same conversation, and prints what is new in it since the last run: the answer,
# and what the agent or a human colleague has said by themselves meanwhile. Prints nothing else, and each message once.
#
#   nightly.sh AGENT_ID QUESTION [CONVERSATION]
#
# The server and the token come from PARLANT_SERVER and PARLANT_TOKEN or PARLANT_TOKEN_FILE; docs/cron.md has a crontab.
set -u

if [ $# -lt 2 ]; then
    echo "usage: nightly.sh AGENT_ID QUESTION [CONVERSATION]" >&2
    exit 2
fi
agent=$1
question=$2
conversation=${3:-nightly}
state=${PARLANT_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/parlant-sync}

# The answer is printed below, with everything else that is new; errors go to stderr, and by cron into a mail.
# --wait-lock: last night's run may still be at it. --renew: a server may have forgotten the session.
parlant-sync send --conversation "$conversation" --agent-id "$agent" \
    --renew --wait-lock 60 --timeout 600 "$question" >/dev/null
asked=$?

# Not answered in time, or with an error (4, 5, 7): the next run reports what still comes. Anything else: nothing to read.
case $asked in
    0 | 4 | 5 | 7) ;;
    *) exit $asked ;;
esac

# A cursor for each agent: conversations of one name with two agents are two, and would put back each other's.
parlant-sync tail --conversation "$conversation" --agent-id "$agent" --cursor-file "$state/$conversation.$agent.cursor" \
    --kinds message --sources ai_agent,human_agent,human_agent_on_behalf_of_ai_agent --no-preambles --timeout 0
told=$?

[ $asked -ne 0 ] && exit $asked
exit $told
