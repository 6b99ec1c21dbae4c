"""The autonomous loop: propose, try, judge, keep or roll back. A client of the other layers.

`ledger`   what happened, written ahead of every step
`judge`    whether a change is better, over the whole campaign
`branch`   commits, worktree and refs, beside the person's own work
"""
