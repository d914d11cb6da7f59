"""Many spellings of answers, written by hand: `gold ## what is in the box`, or behind a ! the whole response."""
# ruff: noqa: RUF001 (look-alike characters are among them)

from __future__ import annotations

import pytest

from learnalign.rewards import make_verifier

SAME = r"""
x \le 5 ## x <= 5
x \ge 5 ## x>=5
[5,\infty) ## x >= 5
5 ## x == 5
5 ## x = 5.
5 ## \mathbf{5}
5 ## \text{5}
5 ## \underline{5}
5 ## \displaystyle 5
5 ## \;5\;
5 ## \$5
5 ## +5
5 ## 5.0
5 ## 5.
5 ## 05
-5 ## −5
-5 ## -\,5
-\frac{1}{2} ## \frac{-1}{2}
-\frac{1}{2} ## -0.5
-\frac{1}{2} ## \frac{1}{-2}
\frac{3}{2} ## 1\frac{1}{2}
\frac{3}{2} ## 1 1/2
\frac{3}{2} ## \dfrac{3}{2}
\frac{3}{2} ## \tfrac32
\frac{3}{2} ## {3 \over 2}
\frac{3}{2} ## 3/2
\frac{3}{2} ## 1.5
\frac{1}{3} ## 0.\dot{3}
\frac{1}{3} ## 0.\bar{3}
\frac{1}{3} ## 0.333333...
\frac{1}{3} ## 0.\overline{33}
1,000,000 ## 10^6
1,000,000 ## 1 million
1000000 ## 1{,}000{,}000
1000000 ## 1\,000\,000
1000000 ## 1e6
0.001 ## 10^{-3}
0.001 ## 1\times10^{-3}
6.02 \times 10^{23} ## 6.02 \cdot 10^{23}
6.02 \times 10^{23} ## 6.02e23
\sqrt{2} ## 2^{1/2}
\sqrt{2} ## \sqrt 2
2\sqrt{2} ## \sqrt{8}
\frac{\sqrt{3}}{3} ## \frac{1}{\sqrt{3}}
\frac{\sqrt{3}}{3} ## \sqrt{3}/3
\frac{\sqrt{3}}{3} ## √3/3
3+2\sqrt{2} ## 2\sqrt{2}+3
3+2\sqrt{2} ## (1+\sqrt2)^2
\pi ## π
4\pi ## 4 \cdot \pi
4\pi ## 4π
\frac{\pi}{4} ## π/4
\frac{\pi}{4} ## 0.25\pi
\frac{\pi}{4} ## 45^\circ
2\pi ## 360°
x^2-1 ## (x-1)(x+1)
x^2-1 ## -1 + x^2
x^2-1 ## x^{2} - 1
x^2-1 ## x**2-1
x^2-1 ## x²-1
(x+1)^2 ## x^2+2x+1
\frac{x+1}{x-1} ## (x+1)/(x-1)
\frac{1}{x} ## x^{-1}
\sin^2 x + \cos^2 x ## 1
\sin(2x) ## 2\sin x\cos x
\ln(x) ## \ln x
\log_2 8 ## 3
e^{2x} ## \exp(2x)
e^{2x} ## (e^x)^2
y = 3x + 2 ## 3x + 2
y = 3x + 2 ## y=2+3x
y = 3x+2 ## f(x)=3x+2
x = 2, y = 3 ## y=3, x=2
x = 2, y = 3 ## (2,3)
x = 2, y = 3 ## (x,y) = (2,3)
x = 2, y = 3 ## x=2 \text{ and } y=3
x = 2, y = 3 ## x=2,\ y=3
(2,3) ## (2, 3)
(2,3) ## \left(2,3\right)
(2,3) ## (2.0, 3.0)
(2,3) ## \langle 2,3\rangle
(2,3) ## (x, y) = (2, 3)
(0,1) \cup (1,2) ## (1,2)\cup(0,1)
(0,1) \cup (1,2) ## (0,1)∪(1,2)
(0,1) \cup (1,2) ## x\in(0,1)\cup(1,2)
(-\infty,2] ## x \le 2
(-\infty,2] ## x\leq2
(-\infty, 2] ## (-∞, 2]
[2,\infty) ## [2,+\infty)
[2,\infty) ## x ≥ 2
(1,3) ## x \in (1,3)
1<x<3 ## 3>x>1
x>1 ## 1<x
\{1,2,3\} ## \{3,1,2\}
\{1,2,3\} ## {1,2,3}
\{1,2,3\} ## 1,2,3
\{1,2,3\} ## 1, 2, \text{ and } 3
\{1,2,3\} ## 1, 2 and 3
\{1,2,3\} ## x\in\{1,2,3\}
\{-1,1\} ## \pm1
\pm 1 ## \pm1
\pm 1 ## 1, -1
\pm\sqrt{2} ## \sqrt{2}, -\sqrt{2}
2\pm\sqrt{3} ## 2+\sqrt3, 2-\sqrt3
\emptyset ## \{\}
\emptyset ## \text{empty set}
\text{Yes} ## \text{yes}
\text{Yes} ## \textbf{Yes}
\text{even} ## Even
\text{odd function} ## odd function
\text{Tuesday} ## Tuesday
\text{isosceles triangle} ## isosceles triangle
\text{Alice} ## alice
\text{(A)} ## A
\text{A} ## (A)
\text{A, B} ## B, A
i ## \sqrt{-1}
1+2i ## 2i+1
1+2i ## 1+2\cdot i
-i ## -1i
\frac{1}{2}+\frac{1}{2}i ## \frac{1+i}{2}
\begin{pmatrix}1\\2\end{pmatrix} ## \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1&0\\0&1\end{pmatrix} ## \left(\begin{array}{cc}1&0\\0&1\end{array}\right)
\begin{pmatrix}1&0\\0&1\end{pmatrix} ## \begin{pmatrix} 1 & 0 \\ 0 & 1 \\ \end{pmatrix}
\begin{pmatrix}1/2\\2\end{pmatrix} ## \begin{pmatrix}\frac12\\2\end{pmatrix}
\binom{5}{2} ## 10
10 ## \binom52
10 ## {5 \choose 2}
24 ## 4!
\frac{5!}{2!} ## 60
5^{10} ## 9765625
2^{10} ## 1024
1024 ## 2^{10}
11_2 ## 11_{2}
2011_3 ## 2011_{3}
12\% ## 0.12
12\% ## 12 percent
12\% ## 12
12.5\% ## 12.5\,\%
12.5 ## 12.5\%
\frac{1}{8} ## 12.5\%
\$12.50 ## 12.5
\$12.50 ## 12.50 dollars
\$12.50 ## \text{\$12.50}
\$1,000 ## 1000
50 cents ## 50 \text{ cents}
50 ## 50¢
20 ## 20 \text{ students}
20 ## 20\text{ cm}^2
20 ## 20 \text{ cm}
20 \text{ cm} ## 20\ cm
20 \text{ cm} ## 20 centimeters
20 \text{ square units} ## 20
20 ## 20 units
20 ## 20 \text{ sq. units}
20\text{ inches} ## 20 in
20 ## 20''
3 \text{ hours} ## 3 hrs
3 \text{ hours} ## 3 h
180 minutes ## 180 \text{ min}
9:00 ## 9:00 AM
9:00 \text{ a.m.} ## 9:00 am
9:00 AM ## 9 AM
45^\circ ## 45
45^\circ ## 45 \text{ degrees}
45^\circ ## 45^{\circ}
72 ## 8 \times 9 = 72
72 ## \text{Total} = 72
72 ## \text{Total: } 72
72 ## A = 72
72 ## \text{Area} = 72 \text{ cm}^2
72 ## n=72
72 ## !The answer is **72**.
72 ## !Answer: \(72\)
72 ## !The final answer is: $\boxed{72}$
72 ## !Therefore, the value is $72$.
72 ## !So the answer is $72$ apples.
72 ## !The answer is 72 apples.
72 ## !The answer is \$72.
72 ## !Final answer: 72.
72 ## !**Final Answer:** 72
72 ## !**Final Answer**: \boxed{72}
72 ## !The answer is: \n\n$$72$$
72 ## !The answer is\n\[\n72\n\]
72 ## !#### 72
72 ## !#### $72
72 ## !####72
72 ## !<answer> 72 </answer>
72 ## !<answer>$72$</answer>
72 ## !<answer>\boxed{72}</answer>
72 ## !<answer>The answer is 72.</answer>
72 ## !<think>a</think> 72
72 ## !<think>a</think>\n\n**72**
72 ## !A: 72
72 ## !So 48 + 24 = 72.
72 ## !So 48 + 24 = 72 clips.
72 ## !$48+24=72$
72 ## !The solution is $x=72$.
72 ## !Hence, $x = 72$.
72 ## !Our final answer is 72
72 ## !the answer is therefore 72
72 ## !My answer is 72
72 ## !The correct answer is (72)
72 ## !The answer should be 72
72 ## !The answer must be 72
72 ## !The result is 72
72 ## !The total is 72.
72 ## !Thus, we get 72 as the answer.
72 ## !\boxed{72\,}
72 ## !\boxed{ 72 }.
72 ## !\boxed 72
72 ## !$\boxed{\mathrm{72}}$
72 ## !\boxed{\$72}
72 ## !\boxed{72\text{ dollars}}
72 ## !最终答案：72
72 ## !答案为72
72 ## !所以答案是：$72$。
72 ## !最终答案是 \boxed{72}
72 ## !因此，总共是72个。
72 ## !Ответ: 72
72 ## !答え：72
72 ## !정답: 72
72 ## !Risposta: 72
72 ## !Resposta: 72
1/2 ## !The answer is 1/2.
0.5 ## !The answer is .5
-3 ## !The answer is -3.
-3 ## !The answer is negative 3.
3.14 ## !The answer is 3.14.
3, 5 ## !The answers are 3 and 5.
3, 5 ## !The answers are $3$ and $5$.
3, 5 ## !x = 3 or x = 5. So \boxed{3, 5}
3, 5 ## !\boxed{3} and \boxed{5}
3, 5 ## !\boxed{3, 5}
3, 5 ## !\boxed{x = 3 \text{ or } x = 5}
3, 5 ## !\boxed{x=3,5}
3, 5 ## !\boxed{\text{3 and 5}}
3, 5 ## !\boxed{x_1=3, x_2=5}
"""
DIFFERENT = r"""
5 ## ==
5 ## x <= 5
5 ## (x,y)==
x \le 5 ## x >= 5
5 ## 5!
5 ## \sqrt{5}
5 ## 5^2
5 ## -5
5 ## 1/5
5 ## 5i
5 ## 5x
5 ## 5\pi
5 ## 5, 6
5 ## 5 or 6
5 ## 5 \text{ or } 6
5 ## 5 \pm 1
5 ## \pm 5
5 ## 50
5 ## 0.5
5 ## 5 \times 10
5 ## 5e1
5 ## (5, 5)
5 ## (0, 5)
5 ## x \neq 5
5 ## \neq 5
5 ## \ge 5
5 ## > 5
5 ## x \to 5
5 ## \text{not } 5
5 ## \text{at least } 5
5 ## \text{less than 5}
5 ## \text{at most } 5
5 ## \text{between 5 and 6}
5 ## 5 - 6
5 ## 4 + 2
5 ## 5 \text{ mod } 7
5 ## 5 \pmod{7}
5 ## 5 \ldots
5 ## 1, 2, 3, 4, 5
5 ## 5:6
5 ## 5 thousand
5 ## 5k
5 ## 5 dozen
5 ## |5-x|
5 ## x^5
5 ## 5 = 6
5 ## x=5=6
5 ## x=5y
5 ## x+5
5 ## 2x=10
5 ## x^2=25
5 ## x-5=0
5 ## f(x)=5x
5 ## \text{five or six}
5 ## \infty
5 ## \text{none}
5 ## \text{I don't know}
5 ## ?
5 ## \frac{5}{0}
5 ## 5/6
5 ## 5 \frac{1}{2}
5 ## 5.5
5 ## 5.01
5 ## 5.0001
0 ## 0.0001
0 ## 10^{-10}
0 ## \emptyset
0 ## \text{None}
1 ## 0.999999
1 ## 0.9999999999
1 ## 1.0000001
1 ## 1+10^{-12}
\frac{1}{3} ## 0.3
\frac{1}{3} ## 0.333
\frac{1}{3} ## 0.34
\frac{2}{3} ## 0.66
\frac{1}{7} ## 0.142
\frac{1}{2} ## 1,2
\frac{1}{2} ## 12
\frac{1}{2} ## 2/1
\frac{1}{2} ## \frac{1}{2}x
\frac{12}{5} ## 1\frac{2}{5}
\frac{3}{4} ## 3:5
3:4 ## 4:3
100 ## 1,00
1000 ## 1,0000
1,000 ## 1, 000
1000 ## 1000000
1234 ## 1, 234
1234 ## 12 34
12345 ## 12,345,000
3.5 ## 35
\pi ## 3.14
\pi ## 3.1416
\pi ## 22/7
\pi ## 3
e ## 2.7
e ## \pi
\sqrt{2} ## 1.4
\sqrt{2} ## 1.4142
\sqrt{2} ## \sqrt{-2}
\sqrt{2} ## -\sqrt{2}
\sqrt{2} ## \sqrt[3]{2}
\sqrt{2} ## \frac{\sqrt{2}}{2}
2\sqrt{3} ## 3\sqrt{2}
2\sqrt{3} ## \sqrt{6}
x^2-1 ## x^2+1
x^2-1 ## x-1
x^2-1 ## y^2-1
x^2-1 ## x^2-1=0
x^2-1 ## X^2-1
x^2 ## x_2
x^2 ## 2x
ab ## a+b
ab ## a,b
\frac{a}{b} ## \frac{b}{a}
a-b ## b-a
|x| ## x
|x| ## -x
\lfloor x \rfloor ## x
\sin x ## \cos x
\sin x ## \sin 2x
\sin x ## \arcsin x
\log_2 3 ## \log_3 2
\ln 2 ## \log_2 e
e^x ## e^{-x}
e^x ## ex
2^x ## x^2
2^n ## 2n
n! ## n
n(n+1) ## n(n-1)
\frac{n(n+1)}{2} ## \frac{n(n-1)}{2}
\binom{n}{2} ## \frac{n}{2}
\binom{n}{2} ## n^2
(1,2) ## (2,1)
(1,2) ## \{1,2\}
(1,2) ## [1,2]
(1,2) ## (1,2,3)
(1,2) ## (-1,2)
(1,2) ## (1,-2)
(1,2) ## 12
(1,2) ## 1.2
(1,2) ## (1,2),(3,4)
[0,1] ## (0,1)
[0,1] ## [0,1)
[0,1] ## \{0,1\}
[0,1] ## 0 < x < 1
(0,\infty) ## [0,\infty)
(0,\infty) ## (-\infty,0)
(0,\infty) ## x \ge 0
x>1 ## x<1
x>1 ## x \ge 1
x>1 ## 1
x>1 ## x=1
x>1 ## y>1
x \ne 1 ## x = 1
\{1,2\} ## \{1,2,3\}
\{1,2\} ## \{1\}
\{1,2\} ## 1
\{1,2\} ## \{1,3\}
\{1,2\} ## 12
\{0\} ## \emptyset
\{1,1,2\} ## \{1,2,2\}
\pm 1 ## 1
\pm 1 ## -1
\pm 1 ## \pm 2
2\pm\sqrt{3} ## 2+\sqrt{3}
\mathbb{R} ## \mathbb{Z}
\mathbb{R} ## \mathbb{N}
\mathbb{R} ## R^2
\mathbb{R} ## \emptyset
\mathbb{R} \setminus \{0\} ## \mathbb{R}
y=2x ## y=3x
y=2x ## x=2y
y=2x ## y=2x+1
y=2x ## y=-2x
y=x^2 ## y=x^2+x
x=2,y=3 ## x=3,y=2
x=2,y=3 ## x=2
x=2,y=3 ## x=2, y=4
x=2,y=3 ## (3,2)
x=2 ## y=2
x=2 ## x=-2
a=1,b=2 ## a=2,b=1
1+2i ## 1-2i
1+2i ## 2+i
1+2i ## 3
i ## 1
i ## -i
i ## j
\text{Yes} ## \text{No}
\text{Yes} ## Y
\text{even} ## odd
\text{even} ## neither even nor odd
\text{Tuesday} ## Thursday
\text{Monday} ## Monday and Tuesday
\text{Alice} ## Bob
\text{Alice} ## Alice and Bob
\text{red} ## reed
\text{no} ## none
\text{east} ## seat
\text{saw} ## was
\text{LISTEN} ## SILENT
A ## B
A ## a
A ## A, B
AB ## AC
ABC ## ACB
MATH ## HTAM
\text{false} ## true
\text{True} ## T
12\% ## 12.5\%
12\% ## 1.2
12\% ## 0.12\%
12\% ## 120\%
0.12 ## 0.12\%
12 ## 0.12
100\% ## 100\%x
50 cents ## 50 dollars
\$5 ## 5 cents
\$5 ## €5
5 km ## 5 miles
5 km ## 5 cm
5 \text{ kg} ## 5 \text{ g}
5 \text{ kg} ## 5 lb
5 m/s ## 5 km/h
5 m^2 ## 5 m^3
5 m ## 5 m^2
5 cm ## 50 mm^2
3 \text{ hours} ## 3 \text{ days}
3 \text{ hours} ## 3 \text{ minutes}
3 hours ## 3 hours 30 minutes
9:00 AM ## 9:00 PM
9:00 ## 9:30
9:00 ## 900
45^\circ ## 45^\circ 30'
45^\circ ## 135^\circ
90^\circ ## \pi
20^\circ C ## 68^\circ F
20^\circ C ## 20^\circ F
101_2 ## 101_3
101_2 ## 5
2011_3 ## 2012_3
2024-01-02 ## 2024-02-01
1/2/2024 ## 2/1/2024
January 5 ## January 6
January 5 ## May 5
\begin{pmatrix}1\\2\end{pmatrix} ## \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} ## \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} ## 1,2,3,4
\begin{pmatrix}0\\0\end{pmatrix} ## 0
\begin{pmatrix}1&0\\0&1\end{pmatrix} ## 1
\begin{pmatrix}1&0\\0&1\end{pmatrix} ## I
\triangle ABC ## \triangle ACB
\angle ABC ## \angle ACB
72 ## 48+24
72 ## 8 \cdot 9
72 ## 72 + 0
72 ## 48+24=73
72 ## 73=72
72 ## 72=73
72 ## 72, 73
72 ## !The answer is not 72.
72 ## !The answer is 73, not 72.
72 ## !The answer is between 72 and 73.
72 ## !The answer is 72 or 73.
72 ## !The answer is more than 72.
72 ## !The answer is either 72 or 73.
72 ## !\boxed{72} is wrong; it is \boxed{73}.
72 ## !\boxed{72}\n\nWait. The answer is \boxed{70}.
72 ## !#### 72\n#### 73
72 ## !#### 73
72 ## !<answer>73</answer> 72
72 ## !<think>72</think>
72 ## !<think>\boxed{72}
72 ## !<think>\boxed{72}</think>The answer is 73.
72 ## !I think of 72 clips, and of 73.
72 ## !The answer is 72 + 1.
72 ## !The answer is x + 72.
72 ## !The answer is 72x.
72 ## !The answer is 7 2.
72 ## !The answer is 72/5.
72 ## !The answer is 72.5.
72 ## !The answer is 72 thousand.
72 ## !Answer: A) 72 B) 73
72 ## !Question: 72? Answer: 73
72 ## !72. The answer is unknown.
72 ## !The answer is $72$ or $73$.
72 ## !The answer is $72 + 1$.
72 ## !\boxed{72 \text{ or } 73}
72 ## !\boxed{72}, \boxed{73}
72 ## !\boxed{73} \boxed{72}
72 ## !\boxed{\boxed{73}72}
"""
WHAT_A_GOLD_MAY_LEAVE = {"48+24", r"8 \cdot 9", "72 + 0", "1,000"}
"""Gold answers that count as their value, while responses have to give it."""


def pairs(text: str) -> list[tuple[str, str]]:
    found = [line.split(" ## ") for line in text.strip().splitlines()]
    return [(gold, candidate) for gold, candidate in found]


def response(candidate: str) -> str:
    if candidate.startswith("!"):
        return candidate[1:].replace(r"\n", "\n")
    return f"So we have $\\boxed{{{candidate}}}$."


@pytest.mark.parametrize("same", [True, False])
def test_spellings(same: bool) -> None:
    listed = pairs(SAME if same else DIFFERENT)
    assert len(listed) > 200
    if not same:  # and the other way round
        listed += [
            (candidate, gold)
            for gold, candidate in listed
            if candidate[0] != "!" and candidate not in WHAT_A_GOLD_MAY_LEAVE and gold not in WHAT_A_GOLD_MAY_LEAVE
        ]
    with make_verifier("math", workers=2, timeout_seconds=30.0, memory_mb=2048) as judge:
        verdicts = judge.judge([response(candidate) for _, candidate in listed], [gold for gold, _ in listed])
    assert [pair for pair, verdict in zip(listed, verdicts, strict=True) if verdict.correct is not same] == []
