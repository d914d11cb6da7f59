#include "common/cores.hpp"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif

namespace learnalign {
namespace {

int cores_of_affinity() {
#if defined(__linux__)
    for (int most = 1024; most <= 1 << 20; most *= 2) {  // the mask must be as long as the kernel's
        cpu_set_t* set = CPU_ALLOC(most);
        if (set == nullptr) break;
        const size_t bytes = CPU_ALLOC_SIZE(most);
        const bool known = ::sched_getaffinity(0, bytes, set) == 0;
        const bool too_short = !known && errno == EINVAL;
        const int cores = known ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (known && cores > 0) return cores;
        if (!too_short) break;
    }
#endif
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::optional<double> first_number(std::istream& text) {
    double number;
    if (text >> number) return number;
    return std::nullopt;
}

// Cores a group's files allow, 0 for no limit. Version 2 keeps quota and period in one file.
int cores_of_group(const std::string& folder) {
    std::optional<double> quota, period;
    if (std::ifstream both(folder + "/cpu.max"); both) {
        quota = first_number(both);  // "max" is no number
        if (quota) period = first_number(both);
    } else {
        std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
        quota = first_number(quota_file);
        period = first_number(period_file);
    }
    if (!quota || !period || *quota <= 0.0 || *period <= 0.0) return 0;
    const double cores = std::min(*quota / *period, 1e6);
    return std::max(1, static_cast<int>(cores) + (cores > static_cast<int>(cores) ? 1 : 0));
}

// The least of a group and those that hold it. Inside a container the path may be the host's, of which only
// the end is there: then the mounted root is the container's own group.
int cores_of_groups(const std::string& mount, std::string path) {
    int least = 0;
    while (true) {
        const int cores = cores_of_group(mount + path);
        if (cores > 0) least = least == 0 ? cores : std::min(least, cores);
        const size_t slash = path.rfind('/');
        if (path.empty() || slash == std::string::npos) return least;
        path.resize(slash);
    }
}

bool lists_cpu(const std::string& controllers) {
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
        if (name == "cpu") return true;
    }
    return false;
}

}  // namespace

int cores_of_quota(const std::string& root) {
    const std::string mounted = root + "/sys/fs/cgroup";
    std::ifstream groups(root + "/proc/self/cgroup");
    int least = 0;
    for (std::string line; std::getline(groups, line);) {  // number:controllers:path
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        if (!controllers.empty() && !lists_cpu(controllers)) continue;
        std::string path = line.substr(second + 1);
        if (path == "/") path.clear();
        const int cores = cores_of_groups(mounted + (controllers.empty() ? "" : "/cpu"), path);
        if (cores > 0) least = least == 0 ? cores : std::min(least, cores);
    }
    return least;
}

int usable_cores() {
    static const int paid_for = cores_of_quota("");
    const int allowed = cores_of_affinity();
    return paid_for > 0 ? std::min(allowed, paid_for) : allowed;
}

}  // namespace learnalign
