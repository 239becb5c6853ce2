"""The report: everything that is known of a ladder of runs, as one plain dict, and that dict as pages.

`collect` makes the dict (results.json), `markdown` and `page` show it. What is in it, by key, at VERSION:

format, version, made  what the file is, and when it was made (ISO 8601, UTC)
machine                names and versions of what it was made with, as text
text                   the held-out text: key, source, bytes, documents, what is resampled, `sizes` (U,) of these units
                       in bytes, `floor` (U,) in bits or null, reference_lines in bits per byte, passage, prompts,
                       `parts` as `sizes` but fewer, and `words`: which are frequent and rare in training
asked                  prompts, seeds and tokens of the samples, and the `sampling` settings they were written with
league, legend         the rows of the table as `mlx_gpt.compare --json` tells them, and what its signs mean
frontiers              what quality costs, as `frontiers` tells it
where                  the bits of each row of the table by cause, place and occurrence, as `where` tells them
runs                   each run by folder name: sha256 and bytes_on_disk of its model, stage, name, title, remembers,
                       preset, the text it was `trained_on`, whether it was `counted` at once, `score` (nats (U,),
                       tokens, seconds, context), `where` (as `causes` adds them up by parts), `curve`, `warnings` of
                       what of a text that was named it was trained on, and of the first seed of a row alone, null of
                       others, `surprise` (pieces, bits), `samples`, `written`, and `skills` as `mlx_gpt.skills --json`
                       tells them
written                the same measures as there, of the held-out text itself
missing_stages, left_out   what is not in it, and why

A report without text (`textless`) has null for what is text or quotes it: `passage`, the words and each of the
`prompts` of `text` and `asked`, and `surprise` and `samples` of every run.
"""

FORMAT, VERSION = "mlx_gpt report", 4
RESULTS, MARKDOWN, PAGE = "results.json", "report.md", "report.html"
