"""Compares what consumers saw with what the CSV says, by a computation of its own.

usage: check.py FLIGHTS_CSV OBSERVED...

Each OBSERVED file holds a line for each delivery of one subscription: partition, offset, row, separated by spaces, in the
order of arrival. Counts by carrier and month, and the order within each tail number, must equal those of the CSV; every row
must be there once, and no row may stand at two places of the log.
"""

import collections
import csv
import sys


def main() -> None:
    flights = list(csv.DictReader(open(sys.argv[1])))
    by_group = collections.Counter((f["carrier"], f["month"]) for f in flights)
    by_key = collections.defaultdict(list)
    for row, flight in enumerate(flights):
        if flight["tailnum"] != "NA":
            by_key[flight["tailnum"]].append(row)

    for path in sys.argv[2:]:
        places = {}
        deliveries = 0
        for line in open(path):
            partition, offset, row = map(int, line.split())
            deliveries += 1
            place = (partition, offset)
            assert places.setdefault(place, row) == row, f"{path}: {place} holds two different messages"
        rows = collections.Counter(places.values())
        twice = [row for row, count in rows.items() if count > 1]
        assert not twice, f"{path}: {len(twice)} rows stand twice in the log, such as {twice[:3]}"
        lost = set(range(len(flights))) - set(rows)
        assert not lost, f"{path}: {len(lost)} rows are lost, such as {sorted(lost)[:3]}"
        assert len(rows) == len(flights), f"{path}: {len(rows)} rows, the CSV has {len(flights)}"

        seen_by_group = collections.Counter((flights[r]["carrier"], flights[r]["month"]) for r in places.values())
        assert seen_by_group == by_group, f"{path}: counts by carrier and month differ"
        seen_by_key = collections.defaultdict(list)
        partitions_of = collections.defaultdict(set)
        for (partition, _), row in sorted(places.items()):
            tail = flights[row]["tailnum"]
            if tail != "NA":
                seen_by_key[tail].append(row)
                partitions_of[tail].add(partition)
        assert all(len(p) == 1 for p in partitions_of.values()), f"{path}: a key lies in two partitions"
        assert seen_by_key == by_key, f"{path}: the order of some key differs"
        keyless = sum(flights[r]["tailnum"] == "NA" for r in places.values())
        print(f"{path}: {deliveries} deliveries of {len(places)} distinct (partition, offset); {len(by_group)} groups, "
              f"{len(by_key)} keys in order, {keyless} keyless; nothing lost, nothing twice")


if __name__ == "__main__":
    main()
