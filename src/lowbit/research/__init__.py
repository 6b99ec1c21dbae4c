"""The autonomous loop for ternary training: propose an edit, run it, judge it, keep or undo it.

actions           what the command line and the MCP server can do with a campaign
final_evaluation  the best candidate on text that nothing was judged on
loop              propose, run, judge; again
mcp_server        the actions as MCP tools
session           one sitting of the loop, with its time and its stop
campaign/         settings, ledger, state and git branch of a campaign
candidate/        running a candidate's code, confined
judging/          what becomes of a trial
proposers/        who proposes the next edit
report/           what a campaign did, for people
"""
