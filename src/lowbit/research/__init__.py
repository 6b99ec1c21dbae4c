"""The autonomous loop for ternary training: propose an edit, run it, judge it, keep or undo it.

actions           the commands, shared by the command line and the MCP server
final_evaluation  the best program on fresh seeds and on the sealed text
loop              propose, run, judge, and repeat
mcp_server        the actions as MCP tools
session           opens a campaign and holds its lock
campaign/         settings, ledger, state and git branch of a campaign
candidate/        runs the code of a candidate in a sandbox
judging/          decides on a trial: keep, discard or crash
proposers/        suggest the next edit
report/           terminal output, chart and HTML page
"""
