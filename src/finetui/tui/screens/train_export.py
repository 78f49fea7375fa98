"""Making what a run left ready to serve: adapter, merged model, GGUF, as a job of its own."""

from __future__ import annotations

from textual import work

from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.tui.actions import Action
from finetui.tui.screens.train_again import AgainPane, Started
from finetui.tui.widgets.dialogs import Choose

ACTIONS = (
    Action("train.export", "X", "export",
           "Write the result for serving: adapter, merged model, GGUF, model card.", writes=True),
)  # fmt: skip
_FORMS = (
    ("result", "what was trained, with tokenizer, card and lines for vLLM and Ollama"),
    ("merged", "also the whole model, the adapter in its weights, its drift measured"),
    ("q8_0", "also GGUF in 8 bits; needs llama.cpp's converter"),
    ("bf16", "also GGUF in bf16; needs llama.cpp's converter"),
)


class ExportPane(AgainPane):
    """Asks what to write and starts the job; the job itself shows like any other."""

    def action_export(self) -> None:
        job = self.open_job()
        if job is None or job.kind != "train" or job.result is None:
            self.say("Only a training run that left a result can be exported.", "warning")
            return

        def chosen(form: str | None) -> None:
            if form:
                self._export(job, form)

        self.app.push_screen(Choose(f"Export {job.slug}", _FORMS), chosen)

    @work(thread=True, exit_on_error=False, group="export")
    def _export(self, job: Job, form: str) -> None:
        from finetui.start import start_export

        try:
            if self.workspace is None:
                raise UserError("an export needs a workspace.")
            gguf = form if form not in ("result", "merged") else ""
            made = start_export(self.workspace, job, merge=form != "result", gguf=gguf)
            self.post_message(Started(made.path))
        except UserError as error:
            self.post_message(Started(None, str(error)))
