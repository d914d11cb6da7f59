// Scorer, ranking, similarities, fold and greedy for Python: checks arrays and lets go of the lock. No
// arithmetic here.
#include <pybind11/stl.h>

#include <optional>

#include "bind/interpreter.hpp"
#include "common/cores.hpp"
#include "common/cpu.hpp"
#include "common/floats.hpp"
#include "fold/fold.hpp"
#include "score/pairs.hpp"
#include "score/score.hpp"
#include "select/select.hpp"

namespace learnalign {
namespace {

Dtype dtype_of(const py::array& array) {
    const py::dtype dtype = array.dtype();
    if (dtype.kind() == 'i' && dtype.itemsize() == 1) return Dtype::int8;
    if (dtype.kind() == 'f' && dtype.itemsize() == 2) return Dtype::float16;
    if (dtype.kind() == 'f' && dtype.itemsize() == 4) return Dtype::float32;
    if (dtype.kind() == 'f' && dtype.itemsize() == 8) return Dtype::float64;
    throw Error(ErrorKind::array, "rows must be int8, float16, float32 or float64");
}

RowSource source_of(const std::vector<py::array>& shards) {
    RowSource source{{}, Dtype::float32, 0};
    for (size_t s = 0; s < shards.size(); ++s) {
        const py::array& shard = shards[s];
        if (shard.ndim() != 2 || !(shard.flags() & py::array::c_style)) {
            throw Error(ErrorKind::array,
                        "shard " + std::to_string(s) + " must be a C-contiguous [rows, d] array");
        }
        if (s > 0 && (shard.shape(1) != source.dimension || dtype_of(shard) != source.dtype)) {
            throw Error(ErrorKind::array,
                        "shard " + std::to_string(s) + " differs from shard 0 in dimension or dtype");
        }
        source.dtype = dtype_of(shard);
        source.dimension = shard.shape(1);
        source.shards.push_back({shard.data(), shard.shape(0)});
    }
    return source;
}

int64_t rows_of(const RowSource& source) {
    int64_t rows = 0;
    for (const auto& shard : source.shards) rows += shard.rows;
    return rows;
}

ZeroRows zero_rows_if(bool refused) {
    return refused ? ZeroRows::refused : ZeroRows::scored;
}

py::tuple sum_unit_rows_of(const std::vector<py::array>& shards, const Doubles& learnability,
                           bool zero_rows_refused, int threads) {
    const RowSource source = source_of(shards);
    const double* v = column(learnability, rows_of(source), "learnability");
    UnitSum sum;
    {
        const Unlocked unlocked;
        sum = sum_unit_rows(source, v, zero_rows_if(zero_rows_refused), threads, poll_signals);
    }
    return py::make_tuple(array_of(sum.total), sum.rows);
}

py::tuple score_rows_of(const std::vector<py::array>& shards, const Doubles& learnability,
                        const std::optional<Doubles>& total, int64_t pool, bool zero_rows_refused,
                        int threads) {
    const RowSource source = source_of(shards);
    const int64_t rows = rows_of(source);
    const double* v = column(learnability, rows, "learnability");
    const double* known = total && !shards.empty() ? column(*total, source.dimension, "total") : nullptr;
    Doubles score(rows), alignment(rows);
    double *score_data = score.mutable_data(), *alignment_data = alignment.mutable_data();
    {
        const Unlocked unlocked;
        score_rows(source, v, known, pool, zero_rows_if(zero_rows_refused), threads, poll_signals, score_data,
                   alignment_data);
    }
    return py::make_tuple(score, alignment);
}

py::array_t<int64_t> top_of(const Doubles& score, const Doubles& learnability, int64_t n) {
    const int64_t rows = score.size();
    const double* s = column(score, rows, "score");
    const double* v = column(learnability, rows, "learnability");
    std::vector<int64_t> picked;
    {
        const Unlocked unlocked;
        picked = top(s, v, rows, n);
    }
    return array_of(picked);
}

using Floats = py::array_t<float, py::array::c_style>;

void fold_band_of(Floats& phi, const Floats& matrices, int64_t first_row, uint32_t layer, uint64_t seed,
                  int threads) {
    if (phi.ndim() != 2 || matrices.ndim() != 3 || phi.shape(0) != matrices.shape(0)) {
        throw Error(ErrorKind::array,
                    "phi must be float32 [segments, d], matrices [segments, rows, columns]");
    }
    const Band band{matrices.data(), matrices.shape(0), matrices.shape(1), matrices.shape(2), first_row};
    const int64_t dimension = phi.shape(1);
    float* data = phi.mutable_data();
    const Unlocked unlocked;
    fold_band(band, {seed, layer}, dimension, threads, poll_signals, simd_path(), data);
}

template <class T>
using Column = py::array_t<T, py::array::c_style>;

py::tuple facility_location_of(const Column<int64_t>& indptr, const Column<int64_t>& indices,
                               const Column<float>& weights, int64_t n, int64_t points) {
    if (indptr.ndim() != 1 || indptr.size() < 1 || indices.ndim() != 1 || weights.ndim() != 1 ||
        indices.size() != weights.size() || points < 0) {
        throw Error(ErrorKind::array,
                    "similarities must be indptr [candidates + 1], indices [entries], weights [entries]");
    }
    const Similarities similar{indptr.size() - 1, points,         indices.size(),
                               indptr.data(),     indices.data(), weights.data()};
    Picks picks;
    {
        const Unlocked unlocked;
        picks = facility_location(similar, n, poll_signals);
    }
    return py::make_tuple(array_of(picks.rows), array_of(picks.gains));
}

// The rows that are compared, kept alive.
struct BoundPairs {
    std::vector<py::array> shards;
    std::unique_ptr<Pairs> pairs;
};

BoundPairs pairs_of(const std::vector<py::array>& shards, const Column<int64_t>& which, const Doubles& weight,
                    int threads) {
    RowSource source = source_of(shards);
    if (which.ndim() != 1) throw Error(ErrorKind::array, "rows must be int64 [rows]");
    const double* w = column(weight, which.size(), "weight");
    std::vector<int64_t> rows(which.data(), which.data() + which.size());
    std::vector<double> weights(w, w + which.size());
    BoundPairs bound{shards, nullptr};
    const Unlocked unlocked;
    bound.pairs = std::make_unique<Pairs>(std::move(source), std::move(rows), std::move(weights), threads,
                                          poll_signals);
    return bound;
}

py::array_t<float> similarities_of(const BoundPairs& self, const Column<int64_t>& queries,
                                   const Column<int64_t>& others, int threads) {
    if (queries.ndim() != 1 || others.ndim() != 2 || others.shape(0) != queries.size()) {
        throw Error(ErrorKind::array, "queries must be int64 [rows], others int64 [rows, each]");
    }
    py::array_t<float> out({others.shape(0), others.shape(1)});
    float* data = out.mutable_data();
    const int64_t *query = queries.data(), *other = others.data();
    const int64_t count = queries.size(), each = others.shape(1);
    {
        const Unlocked unlocked;
        self.pairs->similarities(query, count, other, each, threads, poll_signals, data);
    }
    return out;
}

}  // namespace

void bind_compute(py::module_& m) {
    m.def("simd", [] { return simd_name(simd_path()); });
    m.def("set_ieee_floats", &IeeeFloats::set);
    m.def("restore_floats", &IeeeFloats::restore, py::arg("before"));
    m.def("usable_cores", &usable_cores);
    m.def("cores_of_quota", &cores_of_quota, py::arg("root"));
    m.def("score_rows", &score_rows_of, py::arg("shards"), py::arg("learnability").noconvert(),
          py::arg("total").noconvert(), py::arg("pool_size"), py::arg("zero_rows_refused"),
          py::arg("threads"));
    m.def("sum_unit_rows", &sum_unit_rows_of, py::arg("shards"), py::arg("learnability").noconvert(),
          py::arg("zero_rows_refused"), py::arg("threads"));
    m.def("top", &top_of, py::arg("score").noconvert(), py::arg("learnability").noconvert(), py::arg("n"));
    m.def("fold_band", &fold_band_of, py::arg("phi").noconvert(), py::arg("matrices").noconvert(),
          py::kw_only(), py::arg("first_row"), py::arg("layer"), py::arg("seed"), py::arg("threads"));
    m.def("facility_location", &facility_location_of, py::arg("indptr").noconvert(),
          py::arg("indices").noconvert(), py::arg("weights").noconvert(), py::arg("n"), py::arg("points"));
    py::class_<BoundPairs>(m, "Pairs")
        .def(py::init(&pairs_of), py::arg("shards"), py::arg("rows").noconvert(),
             py::arg("weight").noconvert(), py::arg("threads"))
        .def("similarities", &similarities_of, py::arg("queries").noconvert(), py::arg("others").noconvert(),
             py::arg("threads"));
}

}  // namespace learnalign
