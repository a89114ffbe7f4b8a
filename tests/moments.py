"""For programs that kill themselves: they count what they do, and stop before the Nth event."""

import os
import signal

events = 0  # so far, in this process


def watched(action, moment):
    """Return an action that counts its calls, and kills this process before the event `moment`."""

    def watching(*arguments, **keywords):
        global events
        events += 1
        if events == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return action(*arguments, **keywords)

    return watching
