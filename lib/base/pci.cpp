#include "base/pci.hpp"

#include <algorithm>
#include <fstream>
#include <new>
#include <string>

namespace thole::inline v0_1::detail {

int numa_node_of_pci_device(std::string_view address, const std::filesystem::path& root) noexcept try {
  std::string name(address);  // the system writes addresses with small letters, CUDA with capital ones
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c; });
  std::ifstream file(root / "sys/bus/pci/devices" / name / "numa_node");
  int node = -1;
  return file >> node ? node : -1;
} catch (const std::exception&) {
  return -1;
}

}  // namespace thole::inline v0_1::detail
