// A device waits [1]. A device answers [2].
