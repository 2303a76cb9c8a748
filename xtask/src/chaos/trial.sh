# The program of the trials of `cargo xtask chaos`: KIND STEPS.
#
# It writes what it does to the ledger that all trials share: one short line in one write to a file
# that is only appended to, so the order of the lines is the order in which things happened.
kind=$1
steps=$2
rank=${RANK:-0}
state=$BRINE_CHECKPOINT_FOLDER/steps

# A line that is missing would look like work that was not done, so it is tried until it is there.
# Each try has a shell of its own: what one could not write must not be written by the next.
note() {
    until (printf '%s %s %s %s %s\n' "$1" "$BRINE_TRIAL" "$BRINE_ATTEMPT" "$rank" "$2" \
        >> "$BRINE_CHAOS_LEDGER") 2> /dev/null; do
        sleep 0.1
    done
}

measure() {
    echo "{\"metric\": \"steps\", \"step\": $step, \"value\": $step}" >&3
}

step=0
if [ -s "$state" ]; then
    step=$(cat "$state")
fi
note start "$step"
while [ "$step" -lt "$steps" ]; do
    sleep 0.2
    step=$((step + 1))
    if [ "$kind" = count ]; then
        # On a full disk the program goes on without a checkpoint.
        if (echo "$step" > "$state.new") 2> /dev/null && mv "$state.new" "$state"; then
            note saved "$step"
        else
            note missed "$step"
        fi
    fi
    measure
done
if [ "$kind" = fail ]; then
    exit 3
fi
# Once more, for a program that went on from its last step and so took none.
measure
note done "$step"
