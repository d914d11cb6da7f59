#include "select.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "error.hpp"

namespace learnalign {

std::vector<int64_t> top(const double* score, const double* learnability, int64_t rows, int64_t n) {
    if (n < 0 || n > rows) {
        throw Error(ErrorKind::array, "n must lie between 0 and " + std::to_string(rows) +
                                          " (the rows), found " + std::to_string(n));
    }
    for (int64_t i = 0; i < rows; ++i) {
        if (std::isnan(score[i]) || std::isnan(learnability[i])) {
            throw Error(ErrorKind::array,
                        "scores and learnability must be numbers: NaN in row " + std::to_string(i));
        }
    }
    std::vector<int64_t> order(static_cast<size_t>(rows));
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto better = [&](int64_t a, int64_t b) {
        const bool a_learnable = learnability[a] > 0.0, b_learnable = learnability[b] > 0.0;
        if (a_learnable != b_learnable) return a_learnable;
        if (score[a] != score[b]) return score[a] > score[b];
        return a < b;
    };
    if (n < rows) std::nth_element(order.begin(), order.begin() + n, order.end(), better);
    std::sort(order.begin(), order.begin() + n, better);
    order.resize(static_cast<size_t>(n));
    return order;
}

}  // namespace learnalign
