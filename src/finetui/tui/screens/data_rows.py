"""The data screen's ground: the open file, its rows, and the record at the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textual import on, work
from textual.worker import get_current_worker

from finetui.data.findings import open_findings
from finetui.data.strict import RowError
from finetui.display import plural, size
from finetui.errors import UserError
from finetui.tui.messages import OpenData
from finetui.tui.pane import ModePane
from finetui.tui.screens import data_view, data_work
from finetui.tui.screens.data_findings import SIGNS, Findings, checked_alone, spots_of
from finetui.tui.screens.data_view import DataRows
from finetui.tui.screens.data_work import Indexed, LookedAgain, Opened, OpenFile, Sort, Tokenised
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.record import RecordView
from finetui.tui.widgets.table import ListSource, TableRow, VirtualTable


class RowsPane(ModePane):
    """What all parts of the data screen stand on: state and showing, no key of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.file: OpenFile | None = None
        self.findings = Findings()
        self.checking = False
        """A scan is going on."""
        self.paths: list[Path] = []
        self.wanted: OpenData | None = None
        self.needle = ""
        """The filter that is on."""
        self.note = ""
        """Why some rows are shown, where it is not a filter."""
        self.whole = -1
        """The row over 1 MB that is shown whole."""
        self.sort: Sort | None = None
        """The order rows are shown in; None is the file's."""
        self._tokenizer: Any = None
        self._tokens_on = False
        self.tokens: Tokenised | None = None

    @property
    def rows(self) -> VirtualTable:
        return self.query_one("#rows", VirtualTable)

    @property
    def source(self) -> DataRows | None:
        source = self.rows.source
        return source if isinstance(source, DataRows) else None

    @property
    def current(self) -> int | None:
        """The data set's row at the cursor."""
        source = self.source
        if source is None or not source.row_count:
            return None
        return source.number(min(self.rows.cursor, source.row_count - 1))

    # -- files -------------------------------------------------------------------------------

    def list_files(self) -> None:
        known = [] if self.workspace is None else self.workspace.dataset_files()
        if self.workspace is not None:
            known += self.workspace.version_files()
        if self.file is not None and self.file.path not in known:
            known.append(self.file.path)
        self.paths = known
        rows = [self._file_row(path) for path in known]
        self.query_one("#files", VirtualTable).show(ListSource(rows))

    def _file_row(self, path: Path) -> TableRow:
        opened = self.file is not None and path == self.file.path
        name = path.name
        if self.workspace is not None and path.is_relative_to(self.workspace.versions):
            name = f"{path.parent.name[:12]}/{path.name}"
        try:
            length = _short_size(path.stat().st_size)
        except OSError:
            length = "gone"
        return TableRow(("▸" if opened else "", name, length), "edited" if opened else "")

    @on(VirtualTable.RowSelected, "#files")
    def _file_chosen(self, message: VirtualTable.RowSelected) -> None:
        self.open(self.paths[message.row])
        self.hand_to(self.rows)

    # -- opening -----------------------------------------------------------------------------

    def open(self, path: Path, *more: Path) -> None:
        """Open a data file, or several as one set; the first page shows at once."""
        entitle(self.rows, f"{path.name} · opening …", "")
        self._open([path, *more])

    @work(thread=True, group="open", exclusive=True, exit_on_error=False)
    def _open(self, paths: list[Path]) -> None:
        data_work.open_file(paths, self.workspace, self.post_message)

    @on(Opened)
    def _opened(self, message: Opened) -> None:
        if message.file is None:
            self.tell_rows()
            self.complain(message.error)
            return
        self.forget()
        self.file = message.file
        self.open_store()
        self.rows.cursor = 0
        self.show_rows(None)
        if not self.file.data.exact:
            self.file.indexing = True
            self._index(self.file)
        self.list_files()
        self.show_findings()
        if self.file.data.notice:
            self.say(self.file.data.notice, "warning")
        self.show_wanted()

    def forget(self) -> None:
        """Close the file that was open and what belongs to it."""
        self.workers.cancel_group(self, "check")
        self.workers.cancel_group(self, "filter")
        if self.file is not None:
            self.file.close()
        self.findings.close()
        self.findings = Findings()
        self.checking = False
        self.needle = self.note = ""
        self.sort = None
        self.tokens = None
        entitle(self.query_one("#findings"), "Findings", "")

    def open_store(self) -> None:
        """Findings of an earlier scan of the same bytes, edited rows looked at again."""
        if self.file is None or self.workspace is None:
            return
        store = open_findings(self.file.data.source, self.workspace)
        self.findings.close()
        self.findings = Findings(store)
        if self.source is not None:
            self.source.findings = self.findings
        if store is not None:
            self.settle()
            data = self.file.data
            edited = [row for row in data.changed_rows() if data.state(row).text is not None]
            self.check_all_again(self.file, edited)

    def settle(self) -> None:
        """Findings of rows that are out ask for nothing any more."""
        if self.file is not None and self.findings.known:
            data = self.file.data
            self.findings.settle(
                (row for row in data.changed_rows() if not data.state(row).kept),
                lambda row: data.state(row).text is not None,
            )

    def check_again(self, row: int) -> None:
        """Findings of one edited row; those that compare rows stay until the next check."""
        if self.file is not None and self.findings.known:
            self.findings.replace(row, spots_of(self.file.data, row), checked_alone())

    @work(thread=True, group="again", exclusive=True, exit_on_error=False)
    def check_all_again(self, file: OpenFile, rows: Sequence[int]) -> None:
        """The same for many rows, beside the screen."""
        worker = get_current_worker()
        stop = lambda: worker.is_cancelled or file.stop.is_set()  # noqa: E731
        data_work.look_again(file, rows, stop, self.post_message)

    @on(LookedAgain)
    def _looked_again(self, message: LookedAgain) -> None:
        if message.file is not self.file or not self.findings.known:
            return
        checked = checked_alone()
        for row, spots in message.found:
            self.findings.replace(row, spots, checked)
        self.settle()
        self.show_findings()
        self.rows.rows_changed()

    @work(thread=True, group="index", exit_on_error=False)
    def _index(self, file: OpenFile) -> None:
        data_work.index(file, self.post_message)

    @on(Indexed)
    def _indexed(self, message: Indexed) -> None:
        if message.file is self.file:
            data = message.file.data
            columns = data_view.columns_of(data.shape, data.estimated_rows)
            self.rows.show(self.rows.source, columns)
            self.tell_rows()

    def on_unmount(self) -> None:
        if self.file is not None:
            self.file.close()

    def show_wanted(self) -> None:
        """Go to the rows another screen asked for."""
        wanted, self.wanted = self.wanted, None
        if wanted is None or self.file is None or not wanted.rows:
            return
        if wanted.path.resolve() != self.file.path.resolve():
            return
        if len(wanted.rows) > 1:
            self.note = wanted.note or plural(len(wanted.rows), "chosen row")
            self.show_rows(sorted(set(wanted.rows)))
        else:
            self.go_to(wanted.rows[0])
            if wanted.note:
                self.say(wanted.note)

    # -- rows --------------------------------------------------------------------------------

    def show_rows(self, chosen: Sequence[int] | None) -> None:
        """Show all rows, or some; the cursor stays on its row where that is among them."""
        if self.file is None:
            return
        here = self.current
        data = self.file.data
        source = DataRows(data, self.findings, chosen, self.sort is None)
        self.rows.empty = "no row holds this" if chosen is not None else "no rows"
        self.rows.show(source, data_view.columns_of(data.shape, data.estimated_rows))
        place = source.place(here) if here is not None else 0
        self.rows.cursor = place or 0
        self.tell_rows()
        self.show_record()

    def tell_rows(self) -> None:
        if self.file is None:
            entitle(self.rows, "Rows", "")
            return
        data = self.file.data
        count = f"{data.rows:,}" if data.exact else f"≈ {data.estimated_rows:,}"
        more = len(getattr(data.source, "parts", ())) - 1
        name = f"{data.path.name} and {more} more" if more > 0 else data.path.name
        words = [name, str(data.shape), f"{count} rows"]
        if data.edited_count:
            words.append(f"{data.edited_count:,} edited")
        if data.dropped_count:
            words.append(f"{data.dropped_count:,} dropped")
        if data.quarantined_count:
            words.append(f"{data.quarantined_count:,} aside")
        source = self.source
        below = ""
        if source is not None and source.chosen is not None:
            what = [f"/{self.needle}"] if self.needle else [self.note] if self.note else []
            what += [f"by {self.sort.by}"] if self.sort else []
            below = " · ".join([f"{source.row_count:,} of {count}", *what])
        entitle(self.rows, " · ".join(words), below)

    def clear_filter(self) -> None:
        self.workers.cancel_group(self, "filter")
        self.needle = self.note = ""
        self.sort = None
        self.show_rows(None)
        self.rows.go_to(self.rows.cursor)

    def rows_asked_for(self, asked: tuple[str, Sequence[int]] | None) -> None:
        """A page over the data names rows to look at."""
        if asked is not None and self.file is not None:
            self.needle, self.note = "", asked[0]
            self.sort = None
            self.show_rows(sorted(set(asked[1])))
            self.hand_to(self.rows)

    def go_to(self, row: int) -> None:
        """Put the cursor on a row; a filter that hides it is taken away."""
        source = self.source
        if source is None:
            return
        place = source.place(row)
        if place is None:
            self.clear_filter()
            place = row
        self.rows.go_to(place)

    @on(VirtualTable.RowHighlighted, "#rows")
    def _row_changed(self) -> None:
        self.show_record()

    @on(VirtualTable.RowSelected, "#rows")
    def _row_opened(self) -> None:
        self.hand_to(self.query_one("#record"))

    # -- record and findings -----------------------------------------------------------------

    def show_record(self) -> None:
        view, row = self.query_one(RecordView), self.current
        if self.file is None or row is None:
            view.show([])
            entitle(view, "Record", "")
            return
        cut = [] if row == self.whole else data_view.long_block(self.file.data, row)
        if cut:
            view.show(cut)
            self._tell_record(row)
            return
        tokens = self.tokens if self.tokens is not None and self.tokens.row == row else None
        blocks = data_view.blocks_of(
            self.file.data,
            row,
            self.findings.of(row),
            tokens.spans if tokens else None,
            tokens.caption if tokens else "",
        )
        view.show(blocks, keep_place=tokens is not None)
        self._tell_record(row)
        if self._tokens_on and tokens is None:
            self._tokenise(row)

    def _tell_record(self, row: int) -> None:
        assert self.file is not None
        data = self.file.data
        state = data.state(row)
        place = data.source.place(row)
        file = f"{place.path.name} " if place.path != data.path else ""
        words = [f"{file}line {place.line:,}"]
        for is_so, word in (
            (state.dropped, "dropped"),
            (state.quarantined, "set aside"),
            (state.text is not None, "edited"),
            (state.marked, "marked"),
            (bool(state.label), f"label {state.label}"),
        ):
            words += [word] if is_so else []
        words += [state.reason] if state.reason and not state.kept else []
        words += [plural(len(self.findings.of(row)), "finding")] if self.findings.of(row) else []
        entitle(self.query_one(RecordView), " · ".join(words), f"byte {data.source.offset(row):,}")

    def row_was_changed(self, row: int) -> None:
        """After an edit, a drop or their undoing."""
        self.tokens = None
        self.settle()
        self.show_findings()
        source = self.source
        place = source.place(row) if source else None
        if place is not None:
            self.rows.row_changed(place)
        self.tell_rows()
        self.show_record()

    def show_findings(self, state: str | None = None) -> None:
        table = self.query_one("#findings", VirtualTable)
        kinds = self.findings.kinds()
        rows = [
            TableRow(
                (SIGNS.get(k.severity, "?"), k.check, f"{'≈ ' if k.about else ''}{k.count:,}"),
                _tone(k.severity),
            )
            for k in kinds
        ]
        if state is not None:
            table.empty = state or "nothing found"
        elif not kinds:
            table.empty = "nothing found" if self.findings.known else "c checks this file"
        table.show(ListSource(rows))
        total = sum(kind.count for kind in kinds)
        entitle(table, "Findings", state or (f"{total:,}" if total else ""))

    # -- tokens ------------------------------------------------------------------------------

    def action_token_view(self) -> None:
        """The row on a page of its own, token by token."""
        from finetui.tui.screens.tokens import TokensPage

        if self.file is None or self.workspace is None or self.current is None:
            return
        try:
            page = TokensPage(self.workspace, self.file.path, self.current)
        except UserError as error:
            self.complain(error)
        else:
            self.app.push_screen(page)

    def action_tokens(self) -> None:
        self._tokens_on, self.tokens = not self._tokens_on, None
        self.show_record()

    @work(thread=True, group="tokens", exclusive=True, exit_on_error=False)
    def _tokenise(self, row: int) -> None:
        from finetui.data.records import RecordError

        file, worker = self.file, get_current_worker()
        if file is None:
            return
        if self._tokenizer is None:
            folder = data_work.model_folder(self.workspace)
            if folder is None:
                self._tokens_on = False
                raise UserError("no model is known here.", fix="Name one in a recipe: model.path.")
            from finetui.data.tokens import load_chat_tokenizer

            self._tokenizer = load_chat_tokenizer(folder)
        try:
            record = file.data.record(row)
        except (RowError, RecordError) as error:
            self.post_message(Tokenised(row, caption=f"cannot be trained on: {error}"))
            return
        if not worker.is_cancelled:
            data_work.tokenise(row, record, self._tokenizer, self.post_message)

    @on(Tokenised)
    def _tokenised(self, message: Tokenised) -> None:
        if self._tokens_on and message.row == self.current:
            self.tokens = message
            self.show_record()


def _tone(severity: str) -> Any:
    return severity if severity in ("error", "warning", "info") else "muted"


def _short_size(count: int) -> str:
    """A size in at most six cells: ``412 B``, ``85 K``, ``6.9 M``."""
    words, _, unit = size(count).partition(" ")
    number = words if float(words) < 10 else words.partition(".")[0]
    return f"{number} {unit[0]}"
