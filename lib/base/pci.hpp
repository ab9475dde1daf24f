#pragma once

// What the system says of devices on the PCI bus.

#include <filesystem>
#include <string_view>

namespace thole::inline v0_1::detail {

/// The NUMA node of the device at this address, such as "0000:65:00.0"; -1: it has none, or the system does not say.
/// `root` is where /sys is.
int numa_node_of_pci_device(std::string_view address, const std::filesystem::path& root = "/") noexcept;

}  // namespace thole::inline v0_1::detail
