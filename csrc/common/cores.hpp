// One idea: how many processor cores this process may keep busy.
#pragma once

#include <string>

namespace learnalign {

// The cores of its affinity mask, and no more than its control groups pay for (cpu.max of version 2,
// cpu.cfs_quota_us of version 1; part of a core counts as one). At least 1. Affinity is asked for every time,
// the quota once.
int usable_cores();

// Cores that the control groups of this process allow, 0 where they set no limit. `root` is put before
// /proc and /sys: the tests bring their own.
int cores_of_quota(const std::string& root);

}  // namespace learnalign
