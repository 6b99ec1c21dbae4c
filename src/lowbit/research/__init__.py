"""The autonomous loop: propose, try, judge, keep or roll back. A client of the other layers.

    proposers -> loop -> running -> trials -> sandbox -> evaluator
                  |         what a run is, in its jail, and our own figure of what it left
                  +-> deciding -> judge      whether a change is better, over the whole campaign
                  +-> book -> ledger         what happened, written ahead of every step
                  +-> branch                 commits, worktree and refs, beside the person's work

`verbs` is what can be done with a campaign, for the command line, agents and MCP alike.
"""
