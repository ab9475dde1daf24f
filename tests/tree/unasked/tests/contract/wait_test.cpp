CONTRACT_CASE("a device waits [1]") {}
