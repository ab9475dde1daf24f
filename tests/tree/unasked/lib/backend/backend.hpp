// A device waits [1]. A device answers [2].
virtual Status wait() noexcept = 0;
virtual Status answer() noexcept = 0;
