"""Files of named columns as programs write them: read where their layout is clear, else it is named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from rwmdata.errors import RwmError
from rwmdata.formats.tables import find_tables, read_table

NAMES = ["t", "q_FL", "note"]
TEXT = "t,q_FL,note\n0.00,-1.5,a\n0.02,1e-3,b\n0.04,7,c\n"


def read(tmp_path, content, name="a.csv"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(file)


def assert_is_the_table(frame):
    assert frame.columns == NAMES
    numbers = [frame[name].cast(pl.Float64).to_list() for name in NAMES[:2]]
    assert numbers == [[0, 0.02, 0.04], [-1.5, 1e-3, 7]] and frame["note"].to_list() == ["a", "b", "c"]


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t"),
        TEXT.replace(",", "|"),
        TEXT.replace(",", "   "),
        TEXT.replace(",", ", "),
        TEXT.replace(",", ";").replace(".", ","),
        TEXT.replace(",", "\t").replace(".", ","),
        '"t","q_FL","note"\n"0,00","-1,5","a"\n"0,02","1e-3","b"\n"0,04","7","c"\n',
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", ",\n"),
        TEXT.rstrip("\n"),
        "\n# robot 7, field test\n\n" + TEXT,
        "# " + TEXT,
        TEXT.replace("0.02", "# a stumble, here\n0.02"),
        TEXT.replace("note\n", "note\ns,rad,-\n"),
        ",t,q_FL,note\n0,0.00,-1.5,a\n1,0.02,1e-3,b\n2,0.04,7,c\n",
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        b"# in \xb0\n" + TEXT.encode(),
        gzip.compress(TEXT.encode(), mtime=0),
    ],
)
def test_texts_of_many_programs_hold_one_table(tmp_path, content):
    frame, notes = read(tmp_path, content)
    assert_is_the_table(frame)
    assert notes == []


@pytest.mark.parametrize("end", ["0.06,1", "0.06,1,"])
def test_a_last_line_that_is_cut_off_is_left_out_and_said(tmp_path, end):
    frame, notes = read(tmp_path, TEXT + end)
    assert_is_the_table(frame)
    assert notes == ["a.csv: the last line is cut off and was left out"]


def test_nanoseconds_in_a_text_keep_every_digit(tmp_path):
    frame, _ = read(tmp_path, "%time,x\n1636552000123456789,1\n1636552000123456790,2\n")
    assert frame["%time"].cast(pl.Int64).to_list() == [1636552000123456789, 1636552000123456790]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n0,1\n0,2,3\n0,3\n", "row 2 has 3 cells separated by commas, expected 2 as there are names"),
        ("1,2\n3,4\n", "no row of names above rows of as many numbers, separated by tabs, semicolons, commas"),
        ("a;b;c\n0,5;1.5;2\n", "numbers have decimal commas, as '0,5', and points, as '1.5'"),
        ("pos;vel\nx;y\n1;2\n", "the names of the columns could be 'pos;vel' and 'x;y'"),
        ("a,b\n0,5,1,5\n0,6,1,6\n", "has 4 cells for 2 names where commas separate; are there decimal commas too"),
        ("a,b,a\n1,2,3\n", "has two columns called 'a'"),
        ("pos,pos,vel\nx,y,x\n1,2,3\n", "has two columns called 'pos'"),
        ("a,b\n", "no row of names above"),
        ("", "is empty"),
        (b"\xff\xfea\x00b\xd8", "is no text in UTF-16"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x80\x04\x95", "is a pickle, which can run code"),
        (b"PK\x03\x04 xl/workbook", "damaged archive"),
        (b"PAR1 but cut", "cannot be read"),
    ],
)
def test_what_is_not_clear_is_named(tmp_path, content, message):
    with pytest.raises(RwmError, match=message) as caught:
        read(tmp_path, content)
    assert not any(word in str(caught.value) for word in ("schema", "ignore_errors", "allow_pickle", "truncate"))


@pytest.mark.parametrize("name", ["walk [go2] 1.csv", "a*.csv", "what?.csv", "[ab].parquet", "{a,b}.feather"])
def test_a_file_name_is_no_pattern(tmp_path, name):
    for other in ("walk g 1.csv", "ab.csv", "whatx.csv", "a.parquet"):
        (tmp_path / other).write_text("other\n")
    frame, path = pl.DataFrame({"t": [0.0, 0.5], "q": [1.0, 2.0]}), tmp_path / name
    if path.suffix == ".csv":
        path.write_text(frame.write_csv())
    elif path.suffix == ".parquet":
        frame.write_parquet(stream := io.BytesIO())
        path.write_bytes(stream.getvalue())
    else:
        feather.write_feather(frame.to_arrow(), str(path))
    assert find_tables([path]) == [path]
    assert read_table(path)[0].cast(pl.Float64).rows() == [(0.0, 1.0), (0.5, 2.0)]


def test_vectors_and_structures_become_columns(tmp_path):
    imu = pa.array([{"gyro": [1.0, 2.0]}, {"gyro": [3.0, 4.0]}])
    q = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2)
    table = pa.table({"t": [0.0, 0.1], "imu": imu, "q": q})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    feather.write_feather(table, str(tmp_path / "a.feather"))
    for file in ((tmp_path / "a.feather").read_bytes(), stream.getvalue()):
        frame, _ = read(tmp_path, file, "b")
        assert frame.columns == ["t", "imu.gyro_0", "imu.gyro_1", "q_0", "q_1"]
        assert frame.rows()[1] == (0.1, 3.0, 4.0, 3.0, 4.0)


def test_arrays_of_numpy_become_columns_and_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", t=np.arange(3), q=np.arange(6.0).reshape(3, 2), gains=np.ones(2), robot="go2")
    frame, notes = read_table(tmp_path / "a.npz")
    assert frame.rows() == [(0, 0.0, 1.0), (1, 2.0, 3.0), (2, 4.0, 5.0)] and frame.columns == ["t", "q_0", "q_1"]
    assert notes == ["a.npz: not of 3 rows and left out: gains (2,), robot ()"]
    np.save(tmp_path / "b.npy", np.array([(0.0, [1.0, 2.0])], dtype=[("t", "f8"), ("q", "f8", 2)]))
    assert read_table(tmp_path / "b.npy")[0].rows() == [(0.0, 1.0, 2.0)]
    for name, write in (("c.npy", np.save), ("c.npz", np.savez)):
        write(tmp_path / name, np.array([{"q": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(RwmError, match="array of Python objects, which can run code when it is read"):
            read_table(tmp_path / name)


def test_a_folder_stands_for_its_tables_in_the_order_of_their_numbers(tmp_path):
    for name in ("run_10.csv", "run_2.csv", "._run_2.csv", "notes.md", "more/run_1.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [p.relative_to(tmp_path).as_posix() for p in find_tables([tmp_path])]
    assert found == ["more/run_1.parquet", "run_2.csv", "run_10.csv"]
    with pytest.raises(RwmError, match="holds no .csv, .tsv"):
        (tmp_path / "empty").mkdir()
        find_tables([tmp_path / "empty"])


@pytest.mark.parametrize(("suffix", "pack"), [("xz", lzma.compress), ("bz2", bz2.compress), ("gz", gzip.compress)])
def test_packed_text_is_read_and_damage_is_said(tmp_path, suffix, pack):
    packed = pack(b"a,b\n1,2\n3,4\n")
    file = tmp_path / f"a.csv.{suffix}"
    file.write_bytes(packed)
    frame, _ = read_table(file)
    assert frame["b"].to_list() == ["2", "4"]
    assert find_tables([tmp_path]) == [file]
    file.write_bytes(packed[:-5])
    with pytest.raises(RwmError, match="cannot be decompressed"):
        read_table(file)


def test_lines_that_end_as_on_old_macs_are_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\r1,2\r3,4\r")
    assert read_table(tmp_path / "a.csv")[0]["a"].to_list() == ["1", "3"]


def test_a_table_without_rows_is_refused(tmp_path):
    buffer = io.BytesIO()
    pl.DataFrame(schema={"t": pl.Float64}).write_parquet(buffer)
    with pytest.raises(RwmError, match=r"a\.parquet has no rows"):
        read(tmp_path, buffer.getvalue(), "a.parquet")
